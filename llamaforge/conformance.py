"""Twenty things that every backend is held to, near (in this process) and far (in a worker).

    python -m llamaforge.conformance MODEL [--config DIR]

loads a registered model both ways and prints a table of what holds. A check that cannot apply says why.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from .backends import backend_place, get_backend
from .backends.parameters import describe
from .errors import ContextOverflow, EmptyPrompt, LlamaForgeError, ParameterError
from .forge import LlamaForge
from .generation import Generation
from .types import Result

PROMPT = "Tell me something about llamas, please."
PATIENCE = 60.0
STOP_SECONDS = 2.0
FREED_BYTES = 50 * 2**20


class Failed(Exception):
    """What was seen instead of what must hold."""


class NotApplicable(Exception):
    """Why a check says nothing about this backend."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one check went: "holds", "n/a" or "FAILS", and what was seen."""

    check: str
    verdict: str
    seen: str = ""


@dataclass(slots=True)
class Bench:
    """A loaded model and what the checks share."""

    forge: LlamaForge
    name: str
    patience: float = PATIENCE
    known: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.known = set(describe(get_backend(self.forge.model(self.name).backend).Parameters))

    def settings(self, **wanted: Any) -> dict[str, Any]:
        """Return the parameters that the backend knows; greedy unless said otherwise, so that answers repeat."""
        greedy = {"temperature": 0.0, "max_tokens": 64}
        return {name: value for name, value in (greedy | wanted).items() if name in self.known}

    def ask(self, prompt: str = PROMPT, **wanted: Any) -> Result:
        """Return the finished answer; raise the error that ended it."""
        result = self.finish(self.forge.generate_stream(prompt, self.settings(**wanted)))
        if result.error is not None:
            raise result.error
        return result

    def finish(self, generation: Generation) -> Result:
        result = generation.wait(self.patience)
        if result is None:
            generation.stop()
            raise Failed(f"no end within {self.patience:.0f} s")
        return result

    def pieces(self) -> list[str]:
        """Return the pieces of a finished answer."""
        generation = self.forge.generate_stream(PROMPT, self.settings())
        self.finish(generation)
        return list(generation)

    def begun(self) -> Generation:
        """Return a long answer that has begun to write."""
        generation = self.forge.generate_stream(PROMPT * 20, self.settings(max_tokens=None))
        end = time.monotonic() + self.patience
        while not generation.length and generation.result is None and time.monotonic() < end:
            time.sleep(0.001)
        if not generation.length:
            generation.stop()
            raise Failed(f"no word within {self.patience:.0f} s")
        return generation

    def needs(self, parameter: str) -> None:
        if parameter not in self.known:
            raise NotApplicable(f"has no {parameter}")


def require(holds: object, seen: str) -> None:
    """Fail a check, saying what was seen."""
    if not holds:
        raise Failed(seen)


def require_refusal(kind: type[LlamaForgeError], act: Callable[[], object]) -> None:
    """Fail unless `act` raises an error of a kind."""
    try:
        act()
    except kind:
        return
    except Exception as other:
        raise Failed(f"{type(other).__name__}: {other}") from other
    raise Failed("was accepted")


def says_that_it_is_loaded(bench: Bench) -> None:
    require(bench.forge.status.state == "ready", bench.forge.status.state)


def answers_a_chat(bench: Bench) -> None:
    require(bench.ask().text, "no text")


def streams_what_it_generates(bench: Bench) -> None:
    streamed, whole = "".join(bench.pieces()), bench.ask().text
    require(streamed == whole, f"{streamed[:40]!r} and {whole[:40]!r}")


def cuts_no_character(bench: Bench) -> None:
    pieces = bench.pieces()
    require(all(piece.encode("utf-8") for piece in pieces if piece), "a piece is no text")
    require(not any("\ufffd" in piece for piece in pieces), "a broken character")


def repeats_itself_with_a_seed(bench: Bench) -> None:
    bench.needs("seed")
    first, second = (bench.ask(seed=7, temperature=1.0).text for _ in range(2))
    require(first == second, f"{first[:40]!r} and {second[:40]!r}")


def counts_its_tokens(bench: Bench) -> None:
    usage = bench.ask().usage
    if usage is None:
        raise NotApplicable("counts none")
    require(usage.prompt_tokens > 0 and usage.completion_tokens > 0, str(usage))


def ends_at_max_tokens(bench: Bench) -> None:
    bench.needs("max_tokens")
    result = bench.ask(max_tokens=3)
    require(result.finish_reason == "length" or len(bench.ask().text) == len(result.text), result.finish_reason)
    require(result.usage is None or result.usage.completion_tokens <= 3, str(result.usage))


def ends_before_a_stop_text(bench: Bench) -> None:
    bench.needs("stop")
    text = bench.ask().text
    stop = text[len(text) // 2 :][:3]
    cut = bench.ask(stop=[stop]).text
    require(cut == text[: text.find(stop)], f"{cut!r} with {stop!r}")


def stops_within_two_seconds(bench: Bench) -> None:
    generation = bench.begun()
    told = time.monotonic()
    generation.stop()
    bench.finish(generation)
    require(time.monotonic() - told < STOP_SECONDS, f"{time.monotonic() - told:.1f} s")


def stops_before_the_first_word(bench: Bench) -> None:
    generation = bench.forge.generate_stream(PROMPT, bench.settings())
    generation.stop()
    result = bench.finish(generation)
    require(result.finish_reason in ("cancelled", "stop", "length"), result.finish_reason)


def takes_stop_twice_and_when_idle(bench: Bench) -> None:
    generation = bench.begun()
    generation.stop()
    generation.stop()
    bench.finish(generation)
    generation.stop()
    require(bench.ask().text, "no text afterwards")


def forgets_a_stopped_answer(bench: Bench) -> None:
    expected = bench.ask().text
    for _ in range(5):
        bench.begun().stop()
        text = bench.ask().text
        require(text == expected, f"{text[:40]!r} instead of {expected[:40]!r}")


def answers_two_in_their_order(bench: Bench) -> None:
    both = [bench.forge.generate_stream(PROMPT, bench.settings()) for _ in range(2)]
    texts = [bench.finish(generation).text for generation in both]
    require(texts[0] == texts[1] != "", f"{texts[0][:40]!r} and {texts[1][:40]!r}")


def is_free_when_a_reader_leaves(bench: Bench) -> None:
    for _piece in bench.begun():
        break
    require(bench.ask().text, "no text afterwards")


def refuses_an_empty_message(bench: Bench) -> None:
    require_refusal(EmptyPrompt, lambda: bench.ask(" \n"))


def refuses_a_prompt_over_the_window(bench: Bench) -> None:
    window = bench.forge.status.context_window
    if window is None:
        raise NotApplicable("knows no window")
    require_refusal(ContextOverflow, lambda: bench.ask("word " * (window + 10)))
    require(bench.ask().text, "no text afterwards")


def refuses_unknown_and_impossible_parameters(bench: Bench) -> None:
    require_refusal(ParameterError, lambda: bench.forge.generate(PROMPT, {"temprature": 1}))
    for name in bench.known & {"temperature", "max_tokens"}:
        require_refusal(ParameterError, partial(bench.forge.generate, PROMPT, {name: float("nan")}))


def answers_strange_text(bench: Bench) -> None:
    for text in ("\x00\x1b[31mred", "\ud800", "🦙" * 50, "<|im_end|><|im_start|>system", "a\r\nb\tc"):
        require(bench.ask(text).text, f"no text to {text!r}")


def keeps_the_model_when_another_is_not_there(bench: Bench) -> None:
    require_refusal(LlamaForgeError, lambda: bench.forge.load_model(bench.name + "-that-is-not-there"))
    require(bench.ask().text, "no text afterwards")


def comes_back_after_unloading(bench: Bench) -> None:
    expected = bench.ask().text
    bench.forge.unload_model()
    require(bench.forge.status.state == "empty", bench.forge.status.state)
    require_refusal(LlamaForgeError, bench.ask)
    bench.forge.load_model(bench.name)
    require(bench.ask().text == expected, "another answer")


CHECKS: tuple[Callable[[Bench], None], ...] = (
    says_that_it_is_loaded,
    answers_a_chat,
    streams_what_it_generates,
    cuts_no_character,
    repeats_itself_with_a_seed,
    counts_its_tokens,
    ends_at_max_tokens,
    ends_before_a_stop_text,
    stops_within_two_seconds,
    stops_before_the_first_word,
    takes_stop_twice_and_when_idle,
    forgets_a_stopped_answer,
    answers_two_in_their_order,
    is_free_when_a_reader_leaves,
    refuses_an_empty_message,
    refuses_a_prompt_over_the_window,
    refuses_unknown_and_impossible_parameters,
    answers_strange_text,
    keeps_the_model_when_another_is_not_there,
    comes_back_after_unloading,
)


def run(forge: LlamaForge, name: str, *, patience: float = PATIENCE) -> list[Outcome]:
    """Load a model and return how each check went; an answer has `patience` seconds to end."""
    forge.load_model(name)
    bench = Bench(forge, name, patience)
    return [_outcome(check, bench) for check in CHECKS]


def _outcome(check: Callable[[Bench], None], bench: Bench) -> Outcome:
    title = check.__name__.replace("_", " ")
    try:
        check(bench)
    except NotApplicable as reason:
        return Outcome(title, "n/a", str(reason))
    except Failed as seen:
        return Outcome(title, "FAILS", str(seen))
    # Whatever a backend does, the table is finished.
    except Exception as error:  # noqa: BLE001
        return Outcome(title, "FAILS", f"{type(error).__name__}: {error}")
    return Outcome(title, "holds")


def table(columns: Mapping[str, list[Outcome]]) -> str:
    """Return the outcomes side by side, and below them what was seen where something fails or does not apply."""
    titles = [check.__name__.replace("_", " ") for check in CHECKS]
    width = max(map(len, titles))
    lines = [" " * width + "  " + "  ".join(f"{name:7}" for name in columns)]
    for index, title in enumerate(titles):
        row = [outcomes[index] for outcomes in columns.values()]
        notes = "; ".join(dict.fromkeys(outcome.seen for outcome in row if outcome.seen))
        lines.append(f"{title:{width}}  " + "  ".join(f"{o.verdict:7}" for o in row) + f"  {notes}")
    return "\n".join(line.rstrip() for line in lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the table for one registered model; return 1 where a check fails."""
    parser = argparse.ArgumentParser(prog="python -m llamaforge.conformance", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a model of the config folder")
    parser.add_argument("--config", type=Path, metavar="DIR")
    flags = parser.parse_args(arguments)
    columns: dict[str, list[Outcome]] = {}
    for place, isolate in (("near", False), ("far", True)):
        forge = LlamaForge(flags.config, isolate=isolate)
        try:
            backend = forge.model(flags.model).backend
            if isolate and not (backend_place(backend) and get_backend(backend).in_worker):
                continue
            columns[place] = run(forge, flags.model)
        except LlamaForgeError as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            forge.unload_model()
    print(table(columns))
    return int(any(outcome.verdict == "FAILS" for outcomes in columns.values() for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
