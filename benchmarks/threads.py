"""How many threads, and how many tokens at a time? Tokens per second of llama.cpp, all settings in turn.

With --busy N, N other processes compute all the while: threads of llama.cpp wait for each other in a loop, so one that
must share its core holds up the others.

python benchmarks/threads.py [--rounds 9] [--busy 2] [--plot threads.png] [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import llama_cpp
from engine import loaded
from models import QUICK, Shape, random_model
from report import in_turns, machine, save_plot, table

from llamaforge.memory import physical_cores

BATCHES = (128, 256, 512)  # llama.cpp computes at most 512 at a time (n_ubatch)
FIRST_LETTERS = 259  # the first token that is letters


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Let that many processes compute."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def prompt_speed(llama: Any, threads: int, tokens: int, batch: int) -> float:
    """Return the tokens per second of a new prompt that is evaluated so many tokens at a time."""
    llama_cpp.llama_set_n_threads(llama.ctx, threads, threads)
    llama.reset()
    prompt = list(range(FIRST_LETTERS, FIRST_LETTERS + tokens))
    begun = time.perf_counter()
    for start in range(0, tokens, batch):
        llama.eval(prompt[start : start + batch])
    return tokens / (time.perf_counter() - begun)


def answer_speed(llama: Any, threads: int, tokens: int) -> float:
    """Return the tokens per second of an answer, without choosing them."""
    llama_cpp.llama_set_n_threads(llama.ctx, threads, threads)
    llama.reset()
    begun = time.perf_counter()
    for token in range(tokens):
        llama.eval([FIRST_LETTERS + token])
    return tokens / (time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--busy", type=int, default=0, metavar="N")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--quick", action="store_true", help="does it run? one round of a small model")
    flags = parser.parse_args()
    rounds, shape, prompt, answer = (1, QUICK, 32, 4) if flags.quick else (flags.rounds, Shape(), 512, 24)
    counts = sorted({1, max(1, physical_cores() - 1), physical_cores()})
    print(machine("llama-cpp-python"))
    with loaded(random_model(shape)) as llama, busy(flags.busy):
        sides: dict[str, Callable[[], float]] = {}
        for threads in counts:
            for batch in BATCHES:
                sides[f"prompt, {batch} at a time: {threads}"] = partial(prompt_speed, llama, threads, prompt, batch)
            sides[f"answer: {threads}"] = partial(answer_speed, llama, threads, answer)
        in_turns(sides, 1)
        seen = in_turns(sides, rounds)
    kinds = [*(f"prompt, {batch} at a time" for batch in BATCHES), "answer"]
    medians = {f"{n} threads": {kind: statistics.median(seen[f"{kind}: {n}"]) for kind in kinds} for n in counts}
    worst = {f"{n} threads": {kind: min(seen[f"{kind}: {n}"]) for kind in kinds} for n in counts}
    title = f"{shape.name}, tokens per second, medians and slowest of {rounds} rounds, {flags.busy} other processes"
    columns = [name for count in medians for name in (count, "slowest")]
    table(
        title,
        ("", *columns),
        [[kind, *(side[n][kind] for n in medians for side in (medians, worst))] for kind in kinds],
    )
    if flags.plot:
        save_plot(flags.plot, title, "tokens per second", medians)


if __name__ == "__main__":
    main()
