"""What does the prompt cache save? Seconds to the first token, with and without it, both sides in turn in one run.

A chat of 20 turns: with the cache, and without, where a word of another chat is read before each turn, so that the
whole chat is evaluated anew. Two chats in turn: with the states of chats that are left (prompt_cache_mb), and without.
For llama.cpp with a model of 125 million parameters, and for transformers with one of 15 million.

python benchmarks/turns.py [--quick] [--rounds 3] [--plot docs/images/turns.png]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import Q8_0, QUICK, Shape, random_folder, random_model
from report import machine, table

from llamaforge import LlamaForge, Message, Usage

ANSWER = {"max_tokens": 40, "temperature": 0.0}
WORDS = "tell me more about the small grey llama that lives behind the old mill at the river".split()
LONG = 12  # repetitions of WORDS in the first message of two chats in turn


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn took: seconds to the first token, tokens of the prompt, and how many old ones were evaluated."""

    seconds: float
    prompt: int
    evaluated_again: int


@dataclass(frozen=True, slots=True)
class Side:
    """A turn with the cache, and the same turn without: medians over the rounds."""

    cached: Turn
    fresh: Turn

    @property
    def ratio(self) -> float:
        return self.fresh.seconds / self.cached.seconds


class Chat:
    """A chat with one model, whose answers are part of it."""

    def __init__(self, forge: LlamaForge, first: str) -> None:
        self._forge = forge
        self._messages: list[Message] = []
        self._first = first
        self._last = Usage(0, 0)

    def turn(self) -> Turn:
        text = " ".join([self._first if not self._messages else str(len(self._messages)), *WORDS])
        self._messages.append(Message("user", text))
        answer = self._forge.chat_stream(self._messages, ANSWER)
        result = answer.wait()
        assert result is not None and result.error is None, result
        assert result.usage is not None and result.time_to_first_token is not None
        # The last token of an answer is evaluated only when the chat goes on.
        old = self._last.prompt_tokens + self._last.completion_tokens - (1 if self._last.prompt_tokens else 0)
        self._messages.append(Message("assistant", result.text))
        self._last = result.usage
        again = max(0, old - result.usage.cached_tokens)
        return Turn(result.time_to_first_token, result.usage.prompt_tokens, again)


@contextmanager
def loaded(path: Path, backend: str, **parameters: Any) -> Iterator[LlamaForge]:
    with tempfile.TemporaryDirectory() as config:
        forge = LlamaForge(config)
        forge.add_model("model", str(path), backend, parameters)
        forge.load_model("model")
        yield forge
        forge.unload_model()


def long_chat(kept: LlamaForge, bare: LlamaForge, turns: int, number: int) -> list[Side]:
    """Return the turns of one chat, with the cache and evaluated anew."""
    cached, fresh = (Chat(forge, f"chat {number}") for forge in (kept, bare))
    sides = []
    for _ in range(turns):
        bare.generate("x", {"max_tokens": 1}, raw=True)  # nothing of the chat is left in its context
        sides.append(Side(cached.turn(), fresh.turn()))
    return sides


def two_chats(kept: LlamaForge, bare: LlamaForge, turns: int, number: int) -> list[Side]:
    """Return the turns of two long chats, one after the other: what each takes that comes back."""
    both = [
        [Chat(forge, " ".join([name, str(number), *WORDS * LONG])) for name in ("one", "two")]
        for forge in (kept, bare)
    ]
    pairs = list(zip(*both, strict=True))
    for chats in pairs:
        for chat in chats:
            chat.turn()  # each is new to the model
    return [Side(cached.turn(), fresh.turn()) for _ in range(turns) for cached, fresh in pairs]


def medians(rounds: Sequence[Sequence[Side]]) -> list[Side]:
    """Return the medians of each turn over the rounds."""

    def median(turns: Sequence[Turn]) -> Turn:
        columns = zip(*((turn.seconds, turn.prompt, turn.evaluated_again) for turn in turns), strict=True)
        seconds, prompt, again = (statistics.median(column) for column in columns)
        return Turn(seconds, int(prompt), int(again))

    return [
        Side(median([side.cached for side in sides]), median([side.fresh for side in sides]))
        for sides in zip(*rounds, strict=True)
    ]


def print_turns(title: str, sides: Sequence[Side]) -> None:
    columns = ("turn", "prompt tokens", "with the cache, s", "without, s", "ratio", "evaluated again", "without")
    rows = [
        (str(number), f"{side.cached.prompt:,}", side.cached.seconds, side.fresh.seconds, side.ratio)
        + (f"{side.cached.evaluated_again:,}", f"{side.fresh.evaluated_again:,}")
        for number, side in enumerate(sides, 1)
    ]
    table(title, columns, rows)


def save_plot(path: Path, chats: dict[str, Sequence[Side]]) -> None:
    """Draw the seconds to the first token over the turns of one chat, a picture for each engine side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(chats), 3.4), layout="constrained")
    axes = figure.subplots(1, len(chats), squeeze=False)
    for axis, (title, sides) in zip(axes[0], chats.items(), strict=True):
        numbers = range(1, len(sides) + 1)
        axis.plot(numbers, [side.fresh.seconds for side in sides], color="#9ca3af", marker="o", label="without")
        axis.plot(
            numbers, [side.cached.seconds for side in sides], color="#4f46e5", marker="o", label="with the cache"
        )
        axis.set(title=title, xlabel="turn of the chat", ylabel="seconds to the first token", ylim=(0, None))
        axis.set_xticks([number for number in numbers if number == 1 or number % 5 == 0])
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of few turns: does it run?")
    parser.add_argument("--plot", type=Path, help="draw the long chats into this PNG")
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    rounds, turns, returns = (1, 4, 1) if flags.quick else (flags.rounds, 20, 3)
    import torch

    torch.set_num_threads(1)
    small = Shape(width=512, layers=6, feed_forward=1024, heads=8, kv_heads=4, vocabulary=4000, name="15M")
    small, large = (QUICK, QUICK) if flags.quick else (small, Shape())
    engines: dict[str, tuple[Path, str, dict[str, Any]]] = {
        f"llama.cpp, {large.name}": (random_model(large, Q8_0), "llama.cpp", {"n_threads": 1, "n_ctx": 4096}),
        f"transformers, {small.name}": (random_folder(small), "huggingface", {"device": "cpu"}),
    }
    plotted: dict[str, Sequence[Side]] = {}
    print(machine("llama-cpp-python", "transformers", "torch"))
    for name, (path, backend, parameters) in engines.items():
        with (
            loaded(path, backend, **parameters) as kept,
            loaded(path, backend, prompt_cache_mb=0, **parameters) as bare,
        ):
            plotted[name] = medians([long_chat(kept, bare, turns, number) for number in range(rounds)])
            print_turns(
                f"{name}, one chat: seconds to the first token, medians of {rounds} rounds, one thread", plotted[name]
            )
            print_turns(
                f"{name}, two chats in turn", medians([two_chats(kept, bare, returns, n) for n in range(rounds)])
            )
    if flags.plot is not None:
        save_plot(flags.plot, plotted)


if __name__ == "__main__":
    main()
