"""Many people, one model: how long each waits for the first word, and how much all of them get.

LlamaForge with the model in its worker, as the page has it, beside llama-cpp-python's own server and openai's client.
Both answer one after another. All visitors ask at the same moment, each something else; the sides take turns.

python benchmarks/people.py [--rounds 3] [--plot people.png] [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import openai
from engine import LOAD, opened
from models import QUICK, Shape, random_model
from openai_kit import llama_cpp_server
from report import in_turns, machine, ratio, save_plot, table

VISITORS = (1, 4, 16)
Ask = Callable[[str], Iterator[str]]


@dataclass(frozen=True, slots=True)
class Crowd:
    """What visitors saw: seconds until the first word of each, and the tokens per second of all together."""

    first_words: list[float]
    speed: float


def crowd(ask: Ask, visitors: int, tokens: int) -> Crowd:
    """Let visitors ask at once, each in a thread of their own."""
    together = threading.Barrier(visitors + 1)

    def visit(number: int) -> tuple[float, float]:
        together.wait()
        words = ask(f"This is visitor {number}. Tell me a story about a llama.")
        next(words)
        first = time.perf_counter()
        for _ in words:
            pass
        return first, time.perf_counter()

    with ThreadPoolExecutor(visitors) as pool:
        visits = [pool.submit(visit, number) for number in range(visitors)]
        together.wait()
        begun = time.perf_counter()
        firsts, ends = zip(*(visit.result() for visit in visits), strict=True)
    return Crowd([first - begun for first in firsts], visitors * tokens / (max(ends) - begun))


def ask_server(client: openai.OpenAI, tokens: int, text: str) -> Iterator[str]:
    messages = [{"role": "user", "content": text}]
    stream = client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=tokens, temperature=0, stream=True
    )
    yield from (part.choices[0].delta.content for part in stream if part.choices[0].delta.content)


def row(side: str, visitors: int, runs: list[Crowd], ours: list[Crowd]) -> list[object]:
    waits = [wait for run in runs for wait in run.first_words]
    speeds = [run.speed for run in runs]
    return [
        f"{visitors} of {side}",
        statistics.median(min(run.first_words) for run in runs),
        statistics.median(waits),
        statistics.median(max(run.first_words) for run in runs),
        statistics.median(speeds),
        ratio([run.speed for run in ours], speeds),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it run? one round of a few words of a small model")
    flags = parser.parse_args()
    rounds, shape, tokens = (1, QUICK, 4) if flags.quick else (flags.rounds, Shape(), 64)
    model = random_model(shape)
    print(machine("llama-cpp-python", "openai"))
    with ExitStack() as stack:
        forge = stack.enter_context(opened(model, "llama.cpp", LOAD, isolate=True))
        url = stack.enter_context(llama_cpp_server(model, "--n_ctx", str(LOAD["n_ctx"])))
        client = stack.enter_context(openai.OpenAI(base_url=url, api_key="none", timeout=600, max_retries=0))
        settings = {"max_tokens": tokens, "temperature": 0.0}
        asks: dict[str, Ask] = {
            "LlamaForge": lambda text: iter(forge.chat_stream([{"role": "user", "content": text}], settings)),
            "llama_cpp.server": partial(ask_server, client, tokens),
        }
        for ask in asks.values():
            crowd(ask, 1, tokens)
        runs = {
            visitors: in_turns({side: partial(crowd, ask, visitors, tokens) for side, ask in asks.items()}, rounds)
            for visitors in VISITORS
        }
    table(
        f"{shape.name}, {tokens} tokens each, medians of {rounds} rounds: seconds to the first word, and all together",
        ("visitors", "soonest", "median", "latest", "tok/s", "LlamaForge is"),
        [
            row(side, visitors, seen, sides["LlamaForge"])
            for visitors, sides in runs.items()
            for side, seen in sides.items()
        ],
    )
    if flags.plot:
        groups = {
            f"{visitors} at once": {side: statistics.median(run.speed for run in seen) for side, seen in sides.items()}
            for visitors, sides in runs.items()
        }
        save_plot(flags.plot, "Tokens of all visitors together", "tokens per second", groups)


if __name__ == "__main__":
    main()
