"""Whether two registered models say the same, and what it is that differs: python -m llamaforge.parity A B --prompt …

Each is loaded in turn, in this process, and answers the same message greedily. What differs first tells why: the
rendered prompts (the chat template), the tokens that the same text becomes (the tokenizer), or the answers to the same
tokens (quantisation or precision).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .backends import get_backend
from .errors import LlamaForgeError, ParameterError
from .forge import LlamaForge
from .types import FinishReason, Message, Token

Verdict = Literal["same", "template", "tokenizer", "numerics", "cannot tell"]

TOKENS = 64
GREEDY = {"temperature": 0.0, "repeat_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
EXACT = {"f16_kv": False, "flash_attn": False, "torch_dtype": "float32"}
PRECISION = ("Quantisation", "Weights")  # of a model's card
AROUND = 24  # characters shown on each side of a difference
BEFORE = 3  # tokens shown before one
END = Token(-1, "the end")  # stands for whichever token ends an answer


@dataclass(frozen=True, slots=True)
class Side:
    """What one model was given and what it said; None is what nobody can tell."""

    name: str
    backend: str
    prompt: str | None
    prompt_tokens: tuple[Token, ...] | None
    answer: str
    answer_tokens: tuple[Token, ...] | None
    finish_reason: FinishReason = "stop"
    precision: str = ""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two models part: at a character or a token, counted from 0, of their prompts or their answers."""

    of: Literal["prompt", "prompt tokens", "answer tokens", "answer"]
    at: int
    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Report:
    """Two models side by side, the first thing in which they differ, and what that means, in a sentence."""

    left: Side
    right: Side
    verdict: Verdict
    because: str
    difference: Difference | None = None


def compare(
    forge: LlamaForge, left: str, right: str, prompt: str, *, tokens: int = TOKENS, exact: bool = False
) -> Report:
    """Ask two models the same and return what differs; afterwards none is loaded.

    Args:
        tokens: the longest answer in tokens.
        exact: load both with as much precision as their engines allow, whatever their files say.

    Raises:
        LlamaForgeError: one of them cannot be loaded or does not answer.
    """
    for name in (left, right):
        forge.check_model(name)  # of both, before minutes are spent on one
    return judge(*(_ask(forge, name, prompt, tokens, exact) for name in (left, right)))


def judge(left: Side, right: Side) -> Report:
    """Return what differs first between two models, and what that means."""
    if difference := _of_prompts(left, right):
        if before := _put_before(left, right) or _put_before(right, left):
            because = f"The prompts are the same but for {before!r}, which one tokenizer puts before every prompt."
            return Report(left, right, "tokenizer", because, difference)
        return Report(left, right, "template", "Their chat templates make different prompts of it.", difference)
    if difference := _of_tokens("prompt tokens", left.prompt_tokens, right.prompt_tokens):
        return Report(left, right, "tokenizer", "Their tokenizers cut the same prompt differently.", difference)
    if left.answer_tokens is None or right.answer_tokens is None:
        return _judge_texts(left, right)
    if difference := _of_tokens("answer tokens", _ended(left), _ended(right)):
        return Report(left, right, "numerics", _why(left, right), difference)
    if difference := _of_texts("answer", left.answer, right.answer):
        return Report(left, right, "tokenizer", "The same tokens stand for other texts in them.", difference)
    count = len(left.answer_tokens)
    return Report(left, right, "same", f"The same prompt, and the same {count:,} tokens in answer to it.")


def _ask(forge: LlamaForge, name: str, prompt: str, tokens: int, exact: bool) -> Side:
    model, chat = forge.model(name), [Message("user", prompt)]
    backend = get_backend(model.backend)
    forge.load_model(name, _known_to(model.backend, EXACT) if exact else {})
    try:
        rendered = None if backend.is_service else forge.prompt(chat)  # how a service renders it is its own affair
        answer = forge.chat_stream(chat, _known_to(model.backend, {**GREEDY, "max_tokens": tokens}))
        text = "".join(answer)
        told = forge.last_tokens()
        facts = forge.card(name).facts
    finally:
        forge.unload_model()
    return Side(
        name,
        model.backend,
        rendered.text if rendered is not None else None,
        told.prompt if told is not None else None,
        text,
        told.answer if told is not None else None,
        answer.result.finish_reason if answer.result is not None else "stop",
        ", ".join(facts[fact] for fact in PRECISION if fact in facts),
    )


def _known_to(backend: str, values: Mapping[str, Any]) -> dict[str, Any]:
    schema, ignored = get_backend(backend).Parameters, get_backend(backend).ignored
    return {name: value for name, value in values.items() if name in schema.model_fields and name not in ignored}


def _judge_texts(left: Side, right: Side) -> Report:
    names = list(dict.fromkeys(side.name for side in (left, right) if side.answer_tokens is None))
    mute = f"{' and '.join(names)} {'tells' if len(names) == 1 else 'tell'} no tokens"
    if left.answer == right.answer and left.finish_reason == right.finish_reason:
        return Report(left, right, "same", f"The same text, as far as anybody can tell: {mute}.")
    because = f"They say different things, and nobody can tell why: {mute}."
    return Report(left, right, "cannot tell", because, _of_texts("answer", left.answer, right.answer))


def _of_prompts(left: Side, right: Side) -> Difference | None:
    if left.prompt is None or right.prompt is None:
        return None
    return _of_texts("prompt", left.prompt, right.prompt)


def _put_before(one: Side, other: Side) -> str:
    """Return the token that stands before the prompt of one and is all that the other lacks, empty if none is."""
    first = one.prompt_tokens[0].text if one.prompt_tokens else ""
    return first if first and one.prompt == f"{first}{other.prompt}" else ""


def _of_texts(of: Literal["prompt", "answer"], left: str, right: str) -> Difference | None:
    if left == right:
        return None
    at = len(os.path.commonprefix([left, right]))
    part = slice(max(0, at - AROUND), at + AROUND)
    return Difference(of, at, repr(left[part]), repr(right[part]))


def _of_tokens(
    of: Literal["prompt tokens", "answer tokens"], left: Sequence[Token] | None, right: Sequence[Token] | None
) -> Difference | None:
    if left is None or right is None:
        return None
    at = next((place for place, (one, other) in enumerate(zip(left, right, strict=False)) if one.id != other.id), None)
    if at is None and len(left) == len(right):
        return None
    at = min(len(left), len(right)) if at is None else at
    return Difference(of, at, _around(left, at), _around(right, at))


def _around(tokens: Sequence[Token], at: int) -> str:
    before = "".join(f"{token.text!r} " for token in tokens[max(0, at - BEFORE) : at])
    if at == len(tokens):
        return f"{before}→ nothing more"
    token = tokens[at]
    return f"{before}→ {token.text}" if token == END else f"{before}→ {token.text!r} ({token.id})"


def _ended(side: Side) -> tuple[Token, ...]:
    """Return the answer's tokens with its end, which is a choice of the model's too."""
    return (*(side.answer_tokens or ()), *([END] if side.finish_reason == "stop" else []))


def _why(left: Side, right: Side) -> str:
    known = "; ".join(f"{side.name} has {side.precision}" for side in (left, right) if side.precision)
    return (
        "The same tokens go in and others come out: quantisation or precision"
        f"{f' ({known})' if known else ''}, or different weights. With --exact both compute "
        "in 32 bits, and what is left is in the files."
    )


def lines_of(report: Report) -> list[str]:
    """Return a report as lines for people: prompts, tokens, answers, where they part, and the verdict."""
    sides = (report.left, report.right)
    lines: list[str] = []
    for title, shown in (
        ("prompt", [_text(side.prompt) for side in sides]),
        ("its tokens", [_ids(side.prompt_tokens) for side in sides]),
        ("answer", [_text(side.answer) for side in sides]),
        ("its tokens", [_ids(side.answer_tokens) for side in sides]),
    ):
        names = ["both"] if shown[0] == shown[1] else [side.name for side in sides]
        lines += [f"{title} of {name}: {text}" for name, text in zip(names, shown, strict=False)]
    if found := report.difference:
        lines.append(f"first difference: at {'token' if 'tokens' in found.of else 'character'} {found.at} of the")
        lines[-1] += f" {found.of.removesuffix(' tokens')}, counted from 0"
        lines += [f"  {side.name}: {text}" for side, text in zip(sides, (found.left, found.right), strict=True)]
    return [*lines, f"verdict: {report.verdict}. {report.because}"]


def _text(text: str | None) -> str:
    return "not told" if text is None else repr(text)


def _ids(tokens: Sequence[Token] | None) -> str:
    return "not told" if tokens is None else " ".join(str(token.id) for token in tokens) or "none"


def main(arguments: list[str] | None = None) -> int:
    """Print the report of two registered models; return 0 where they say the same, else 1."""
    parser = argparse.ArgumentParser(prog="python -m llamaforge.parity", description=__doc__.splitlines()[0])
    parser.add_argument("left", metavar="A", help="a model of the config folder")
    parser.add_argument("right", metavar="B", help="another one")
    parser.add_argument("--prompt", required=True, help="the message that both answer")
    parser.add_argument("--tokens", type=int, default=TOKENS, help=f"longest answer in tokens (default: {TOKENS})")
    parser.add_argument("--exact", action="store_true", help="load both with as much precision as there is")
    parser.add_argument("--config", type=Path, metavar="DIR", help="settings and models")
    flags = parser.parse_args(arguments)
    try:
        report = compare(
            LlamaForge(flags.config), flags.left, flags.right, flags.prompt, tokens=flags.tokens, exact=flags.exact
        )
    except LlamaForgeError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ParameterError) else 1
    print("\n".join(lines_of(report)))
    return int(report.verdict != "same")


if __name__ == "__main__":
    sys.exit(main())
