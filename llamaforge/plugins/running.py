"""The plugins of one answer: their hooks run in their order, and one that fails, hangs or cheats is left out of it.

Whoever draws from these generators gets an empty Chunk now and then while a plugin thinks, and so can heed a Stop.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import islice, pairwise
from typing import Any

from ..errors import LlamaForgeError, PluginError
from ..images import require_few_images
from ..redaction import hide_secrets
from ..text_stream import clean_message, clean_text
from ..types import Chunk, Message, PluginNote
from .aside import begun, ended
from .base import LoadedModel, Plugin
from .choice import PluginUse
from .stream_filter import BEAT, StreamFilter

MOST_SECONDS = 60.0  # whatever a plugin asks for
MOST_MESSAGES = 10_000
MOST_NOTES, LONGEST_NOTE = 10, 300

Suspend = Callable[[str, LlamaForgeError], None]


@dataclass(frozen=True, slots=True)
class Running:
    """A plugin at work on one answer."""

    name: str
    plugin: Plugin

    @property
    def seconds(self) -> float:
        return min(type(self.plugin).seconds, MOST_SECONDS)


class PluginRun:
    """The plugins that are on, for one answer.

    Args:
        model: what they are told of it; its `count` is called in before() alone, while the engine waits.
        sees_images: whether the model does.
        suspend: told of a plugin that does not end, and why it should not be asked again.
    """

    def __init__(
        self, uses: Sequence[PluginUse], model: LoadedModel, suspend: Suspend, *, sees_images: bool = False
    ) -> None:
        self._uses = [use for use in uses if use.enabled]
        self._model = model
        self._suspend = suspend
        self._sees_images = sees_images
        self._running: list[Running] = []

    def before(self, chat: Sequence[Message]) -> Generator[Chunk, None, list[Message]]:
        """Yield what plugins have to say, and return the chat as they leave it."""
        given = list(chat)
        for use in self._uses if given else ():
            if use.problem is not None or use.plugin is None:
                yield _failed(use.name, str(use.problem))
                continue
            count = _Count(self._model.count)
            step = begun(_step(use, use.plugin, replace(self._model, count=count), given, self._sees_images))
            try:
                yield from _until(step, min(use.plugin.seconds, MOST_SECONDS))
            finally:
                count.close()
            running, given, note = self._outcome(use, step, given)
            self._running += running
            yield note
        return given

    def messages(self, chat: Sequence[Message]) -> list[Message]:
        """Return a chat as the plugins leave it; what they say about it is not heard."""
        steps = self.before(chat)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return list(done.value)

    def after(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Yield an answer as the plugins leave it, each piece as soon as they have given it out."""
        for running in self._running:
            if type(running.plugin).after is not Plugin.after:
                chunks = self._filtered(running, chunks)
        return iter(chunks)

    def _outcome(
        self, use: PluginUse, step: Future[tuple[Plugin, list[Message]]], given: list[Message]
    ) -> tuple[list[Running], list[Message], Chunk]:
        if not step.done():
            return [], given, self._hung(use.name)
        try:
            plugin, messages = step.result()
        # Somebody's code may fail in any way, and did so in a thread of its own; the chat goes on without it.
        except BaseException as failure:  # noqa: BLE001
            return [], given, _failed(use.name, failure)
        running = Running(use.name, plugin)
        return [running], messages, _notes(running)

    def _filtered(self, running: Running, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """Yield a stream through one plugin's after(); what is no text goes past it."""
        stream = StreamFilter(lambda given: running.plugin.after(given), running.seconds)
        try:
            yield from stream.begin()
            for chunk in () if stream.ended else chunks:
                if chunk.text or chunk.reasoning:
                    yield from stream.feed(Chunk(chunk.text, chunk.reasoning))
                yield replace(chunk, text="", reasoning="")
                if stream.ended:
                    break
            yield from stream.finish()
        finally:
            stream.close()
        if stream.problem is None:
            yield _notes(running)
        else:
            yield self._hung(running.name) if stream.hung else _failed(running.name, stream.problem)
        if stream.ended:
            yield Chunk(finish_reason="stop")

    def _hung(self, name: str) -> Chunk:
        text = f"Plugin {name!r} does not end. It is left out until the settings are read again (Models, Reload)."
        self._suspend(name, PluginError(text))
        return _failed(name, "it does not end. It is left out from now on.")


class _Count:
    """Counting for one before(): afterwards the engine is busy, and a thread that was left behind must not ask it."""

    def __init__(self, count: Callable[[Sequence[Message]], int | None]) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self, messages: Sequence[Message]) -> int | None:
        with self._lock:
            if self._closed:
                raise PluginError("Tokens can be counted in before() only.")
            return self._count(messages)

    def close(self) -> None:
        with self._lock:
            self._closed = True


def _step(
    use: PluginUse, kind: type[Plugin], model: LoadedModel, chat: list[Message], sees_images: bool
) -> Callable[[], tuple[Plugin, list[Message]]]:
    def step() -> tuple[Plugin, list[Message]]:
        plugin = kind(use.settings, model)
        if not isinstance(plugin, kind):
            raise PluginError(f"its class made {type(plugin).__name__}")
        if kind.before is Plugin.before:
            return plugin, chat
        return plugin, _checked(plugin.before(list(chat)), chat, sees_images)

    return step


def _checked(given: Any, chat: Sequence[Message], sees_images: bool) -> list[Message]:
    """Return what before() gave as messages that a model can answer.

    Raises:
        LlamaForgeError: it is something else.
    """
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise PluginError(f"before() gave {type(given).__name__} where it must give messages")
    messages = []
    for message in islice(given, MOST_MESSAGES):
        if not isinstance(message, (Message, Mapping)):
            raise PluginError(f"before() gave {type(message).__name__} among the messages")
        messages.append(clean_message(message))
    if not messages or messages[-1].role != chat[-1].role:
        raise PluginError("before() must keep the last message")
    if chat[-1].content.strip() and not (messages[-1].content.strip() or messages[-1].images):
        raise PluginError("before() left nothing of the last message")
    if _take_turns(chat) and not _take_turns(messages):
        raise PluginError("before() must let user and assistant take turns, after the system prompt")
    require_few_images(messages)
    if not sees_images and any(message.images for message in messages):
        raise PluginError("before() gave a picture, and the model sees none")
    return messages


def _take_turns(chat: Sequence[Message]) -> bool:
    roles = [message.role for message in chat]
    while roles and roles[0] == "system":
        roles.pop(0)
    return "system" not in roles and roles[:1] == ["user"] and all(one != other for one, other in pairwise(roles))


def _until(step: Future[Any], seconds: float) -> Iterator[Chunk]:
    """Yield an empty Chunk ten times a second until a step has ended or its time is over."""
    late = time.monotonic() + seconds
    while not ended(step, BEAT) and time.monotonic() < late:
        yield Chunk()


def _notes(running: Running) -> Chunk:
    """Return what a plugin has noted since the last time."""
    notes = vars(running.plugin).get("notes")
    if not isinstance(notes, list):
        return Chunk()
    texts = [clean_text(text)[:LONGEST_NOTE] for text in notes[:MOST_NOTES] if isinstance(text, str) and text.strip()]
    notes.clear()
    return Chunk(notes=tuple(PluginNote(running.name, hide_secrets(text)) for text in texts))


def _failed(name: str, why: BaseException | str) -> Chunk:
    if isinstance(why, (str, LlamaForgeError)):
        reason = str(why)
    else:
        reason = traceback.format_exception_only(why)[-1].strip()  # its own str() may fail too
    text = hide_secrets(clean_text(reason)[:LONGEST_NOTE]).rstrip(".")
    sentence = f"Plugin {name!r} failed: {text}. The chat went on without it."
    return Chunk(notes=(PluginNote(name, sentence, failed=True),))
