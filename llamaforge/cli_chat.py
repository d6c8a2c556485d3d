"""A chat in the terminal: what is typed goes in, the answer streams out, Ctrl-C stops it.

Only the answer goes to stdout; thoughts, figures and problems go to stderr, so that a pipe holds nothing else.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from .backends import get_backend
from .backends.parameters import ParameterInfo, describe, unknown_name, validate
from .errors import LlamaForgeError, ParameterError
from .forge import LlamaForge
from .generation import Generation
from .types import FinishReason, Message, Result

TICK = 0.05  # seconds between looks at what has been written
COMMANDS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # to a terminal, which a model must not give any
DIM, PLAIN = "\033[2m", "\033[0m"
ENDED: dict[FinishReason, str] = {
    "length": "the longest answer is reached",
    "cancelled": "stopped",
    "error": "broken off",
}
WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def parameters_of(backend: str, texts: Sequence[str]) -> dict[str, Any]:
    """Return what texts such as "temperature=0.2" set, checked by a backend's schema; a list is given item by item.

    Raises:
        ParameterError: one is no such text, is unknown or out of range.
    """
    schema = get_backend(backend).Parameters
    infos, values = describe(schema), dict[str, Any]()
    for text in texts:
        name, sign, value = text.partition("=")
        name = name.strip()
        if not sign:
            raise ParameterError(
                f"Write a parameter as name=value, such as temperature=0.2; found {text!r}.", name=name
            )
        if name not in infos:
            raise ParameterError(unknown_name("setting", name, infos), name=name)
        if infos[name].kind == "list of texts":
            values.setdefault(name, []).append(value)
        else:
            values[name] = _value(infos[name], value.strip())
    return validate(schema, values)


def _value(info: ParameterInfo, text: str) -> Any:
    """Return a text as a value of its kind; one that is none stays a text, for the schema to refuse in a sentence."""
    with contextlib.suppress(ValueError):
        if info.kind == "whole number":
            return int(text)
        if info.kind == "number":
            return float(text)
    return WORDS.get(text.lower(), text) if info.kind == "yes or no" else text


def open_model(forge: LlamaForge, name: str, parameters: Mapping[str, Any]) -> None:
    """Load a model and say how it went."""
    _tell(f"Loading {name} …")
    forge.load_model(name, parameters)
    status = forge.status
    seconds = f" ({status.load_seconds:.1f} s)" if status.load_seconds is not None else ""
    _tell(f"{name}: {', '.join(status.summary) or 'loaded'}{seconds}")
    for warning in status.warnings:
        print(warning, file=sys.stderr)


def ask(forge: LlamaForge, chat: Sequence[Message]) -> bool:
    """Write the answer to one chat; return whether there was one."""
    try:
        result = _written(forge.chat_stream(chat))
    except LlamaForgeError as error:
        print(error, file=sys.stderr)
        return False
    return result.error is None


def converse(forge: LlamaForge, chat: list[Message]) -> None:
    """Read messages and write answers until the input ends (Ctrl-D)."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - arrow keys and earlier messages, in input()
    _tell("Ctrl-C stops an answer, Ctrl-D ends the chat.")
    while True:
        try:
            text = input("> ")
        except KeyboardInterrupt:
            print("\nCtrl-D ends the chat.")
            continue
        except EOFError:
            print()
            return
        if text.strip():
            _take_turn(forge, chat, text)


def _take_turn(forge: LlamaForge, chat: list[Message], text: str) -> None:
    try:
        answer = forge.chat_stream([*chat, Message("user", text)])
    except LlamaForgeError as error:
        print(error, file=sys.stderr)
        return
    _written(answer)
    if answer.text:  # a question without an answer is forgotten, so that it can be asked again
        chat += [Message("user", text), Message("assistant", answer.text)]


def _written(answer: Generation) -> Result:
    """Write an answer as it comes, and below it its figures; Ctrl-C stops it."""
    told_text = told_thoughts = 0
    note = text = ""
    result = None
    while result is None:
        try:
            result = answer.wait(TICK)
            if answer.note != note and (note := answer.note):
                _tell(note)
            thoughts, text = _harmless(answer.reasoning), _harmless(answer.text)
            _print_thoughts(thoughts[told_thoughts:], ends=bool(text) and not told_text)
            print(text[told_text:], end="", flush=True)
            told_text, told_thoughts = len(text), len(thoughts)
        except KeyboardInterrupt:
            answer.stop()
        except BaseException:
            answer.stop()
            raise
    if told_text and not text.endswith("\n"):
        print(flush=True)
    if result.error is not None:
        print(result.error, file=sys.stderr)
    _tell(figures(result))
    return result


def _harmless(text: str) -> str:
    return COMMANDS.sub("", text)


def _print_thoughts(text: str, *, ends: bool) -> None:
    if text:
        print(_dim(text), end="", file=sys.stderr, flush=True)
    if ends and text:
        print("\n", file=sys.stderr, flush=True)


def figures(result: Result) -> str:
    """Return what is known of an answer in a line: tokens, times, and why it ended where that is not the usual."""
    tokens = result.usage.completion_tokens if result.usage else None
    parts = [f"{tokens:,} token{'' if tokens == 1 else 's'}" if tokens is not None else "", f"{result.seconds:.1f} s"]
    if result.time_to_first_token is not None:
        parts.append(f"first after {result.time_to_first_token:.2f} s")
    if result.tokens_per_second is not None:
        parts.append(f"{result.tokens_per_second:.1f} tokens/s")
    return " · ".join(filter(None, [*parts, ENDED.get(result.finish_reason, "")]))


def _tell(text: str) -> None:
    print(_dim(text), file=sys.stderr, flush=True)


def _dim(text: str) -> str:
    return f"{DIM}{text}{PLAIN}" if sys.stderr.isatty() and not os.environ.get("NO_COLOR") else text
