"""A plugin that goes wrong is named, and the chat goes on without it: nothing is lost, doubled or held up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from plugin_kit import Shout, broken, failures, name_in_settings, use
from scripted import until
from tiny_gguf import DEFAULT_ANSWER

from llamaforge import Chunk, LlamaForge, Message, Plugin, Usage, register_plugin


def raises(*arguments: object) -> Any:
    raise ValueError("out of luck")


def exits(*arguments: object) -> Any:
    raise SystemExit(3)


def is_cancelled(*arguments: object) -> Any:
    raise asyncio.CancelledError


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def raises_the_unspeakable(*arguments: object) -> Any:
    raise Unspeakable


BEFORE = {
    "raises": (raises, "ValueError: out of luck"),
    "exits": (exits, "SystemExit: 3"),
    "is cancelled": (is_cancelled, "asyncio.exceptions.CancelledError"),
    "raises what has no text": (raises_the_unspeakable, "test_plugin_failures.Unspeakable: <exception str() failed>"),
    "nothing": (lambda self, messages: None, "before() gave NoneType where it must give messages"),
    "text": (lambda self, messages: "hi", "before() gave str where it must give messages"),
    "no messages": (lambda self, messages: [], "before() must keep the last message"),
    "no last message": (lambda self, messages: messages[:-1], "before() must keep the last message"),
    "an empty one": (lambda self, messages: [Message("user", " ")], "before() left nothing of the last message"),
    "wrong role": (lambda self, messages: [{"role": "boss", "content": "hi"}, *messages], "A message is"),
    "wrong content": (lambda self, messages: [{"role": "user", "content": 3}], "A message is"),
    "a number": (lambda self, messages: [3], "before() gave int among the messages"),
    "twice the user": (
        lambda self, messages: [*messages, messages[-1]],
        "before() must let user and assistant take turns",
    ),
}


@pytest.mark.parametrize(("hook", "reason"), BEFORE.values(), ids=BEFORE)
def test_a_before_that_goes_wrong_is_named_and_the_chat_goes_on_without_it(
    echo: LlamaForge, hook: Any, reason: str
) -> None:
    use(echo, broken(before=hook, after=Shout.after))
    answer = echo.chat_stream([Message("user", "a"), Message("assistant", "b"), Message("user", "hi there")])
    assert "".join(answer) == "hi there"
    (text,) = failures(answer.notes)
    assert text.startswith(f"Plugin 'mine' failed: {reason}") and text.endswith(". The chat went on without it.")


def after_two(self: Plugin, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Passes two pieces on and fails with the third in its hands."""
    for number, chunk in enumerate(chunks):
        if number == 2:
            raise ValueError("out of luck")
        yield chunk


def after_holding(self: Plugin, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Keeps all but the first letter of all it gets, and fails."""
    first = next(chunks)
    yield Chunk(first.text[:1])
    next(chunks)
    raise ValueError("out of luck")


def after_shouting(self: Plugin, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    yield Chunk(next(chunks).text.upper())
    next(chunks)
    raise ValueError("out of luck")


def wrong_piece(self: Plugin, chunks: Iterator[Chunk]) -> Iterator[Any]:
    yield next(chunks)
    yield b"bytes"


AFTER = {
    "raises": (raises, "one two three four"),
    "exits": (exits, "one two three four"),
    "cannot even be got": (property(raises), "one two three four"),
    "no function": (3, "one two three four"),
    "nothing": (lambda self, chunks: None, "one two three four"),
    "no piece": (lambda self, chunks: iter(()), "one two three four"),
    "swallows all": (lambda self, chunks: iter([c for c in chunks if not c]), "one two three four"),
    "fails later": (after_two, "one two three four"),
    "fails with text in its hands": (after_holding, "one two three four"),
    "fails after a change": (after_shouting, "ONE two three four"),
    "bytes": (wrong_piece, "one two three four"),
    "numbers in a chunk": (lambda self, chunks: (Chunk(3) for _ in chunks), "one two three four"),  # type: ignore[arg-type]
    "half a character": (lambda self, chunks: (Chunk("\ud800") for _ in chunks), "one two three four"),
}


@pytest.mark.parametrize(("hook", "text"), AFTER.values(), ids=AFTER)
def test_an_after_that_goes_wrong_loses_and_doubles_nothing(echo: LlamaForge, hook: Any, text: str) -> None:
    use(echo, broken(after=hook))
    answer = echo.chat_stream([Message("user", "one two three four")])
    assert "".join(answer) == text
    assert len(failures(answer.notes)) == 1
    assert answer.result is not None and answer.result.usage == Usage(4, 4)
    assert answer.result.finish_reason == "stop" and answer.result.error is None


def test_a_plugin_that_raises_in_every_hook_harms_nothing(load: Callable[..., LlamaForge], tiny_gguf: Path) -> None:
    forge = load(tiny_gguf)
    hooks = {"__init__": raises, "before": raises, "after": raises, "note": raises}
    for number, name in enumerate(hooks):
        register_plugin(f"broken{number}", broken(**{name: hooks[name]}, __module__=f"m{number}"))
    register_plugin("mine", Shout)
    name_in_settings(forge, *(f"broken{number}" for number in range(len(hooks))), "mine")
    answer = forge.chat_stream([Message("user", "Hello")])
    assert "".join(answer) == DEFAULT_ANSWER.upper()
    assert len(failures(answer.notes)) == 3
    prompt = forge.prompt([Message("user", "Hello")])
    assert prompt is not None and "Hello!" in prompt.text


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """An event that nothing sets while the test runs."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("hook", ["__init__", "before", "after"])
def test_a_hook_that_hangs_is_left_behind_and_not_asked_again(
    echo: LlamaForge, never: threading.Event, hook: str
) -> None:
    use(echo, broken(seconds=0.2, **{hook: lambda *arguments: never.wait()}))
    answer = echo.chat_stream([Message("user", "one two")])
    assert "".join(answer) == "one two"
    assert failures(answer.notes) == [
        "Plugin 'mine' failed: it does not end. It is left out from now on. The chat went on without it."
    ]
    assert "does not end" in str(echo.config.plugin_problems["mine"])
    threads = threading.active_count()
    assert echo.chat([Message("user", "one two")]) == "one two" and threading.active_count() == threads
    echo.config.reload()
    assert not echo.config.plugin_problems


@pytest.mark.parametrize("hook", ["before", "after"])
def test_stop_ends_an_answer_whose_plugin_hangs(echo: LlamaForge, never: threading.Event, hook: str) -> None:
    began = threading.Event()

    def hang(*arguments: object) -> None:
        began.set()
        never.wait()

    use(echo, broken(seconds=60, **{hook: hang}))
    answer = echo.chat_stream([Message("user", "one two")])
    assert began.wait(10)
    answer.stop()
    result = answer.wait(10)
    assert result is not None and (result.finish_reason, result.text) == ("cancelled", "")
    assert echo.generate("still here", raw=True) == "still here"


def test_stop_ends_an_answer_that_a_plugin_writes_for_ever(echo: LlamaForge) -> None:
    use(echo, broken(after=lambda self, chunks: iter(lambda: "more ", None)))
    answer = echo.chat_stream([Message("user", "one two")])
    until(lambda: answer.text)
    answer.stop()
    assert answer.wait(10) is not None


def test_a_plugin_that_writes_without_an_end_is_left_out(echo: LlamaForge) -> None:
    use(echo, broken(after=lambda self, chunks: iter(lambda: "more " * 10_000, None)))
    answer = echo.chat_stream([Message("user", "one two")])
    answer.wait(10)
    assert failures(answer.notes) == [
        "Plugin 'mine' failed: after() writes without an end. The chat went on without it."
    ]
    assert answer.text.endswith("one two")
