"""Small filters between an engine's tokens and the text a person sees; each costs the same at any length."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from .errors import EmptyPrompt, GenerationError
from .images import checked_images
from .types import Chunk, Message, Role

THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
LONGEST_START = 1000  # characters; a model that writes blanks without end has no thoughts to come
# Everything below space but tab and newline, and DEL: never meant, and some terminals and logs obey them.
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ufeff]")


class StopMatcher:
    """Cuts a stream before the first stop text in it, holding back only what may still become one."""

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [text for text in stop if text]
        self._held = ""
        self.matched = False

    @property
    def holds(self) -> bool:
        """Whether a text is held back that may become a stop text."""
        return bool(self._held)

    def feed(self, piece: str) -> str:
        """Return the text that is safe to show; sets `matched` once a stop text has been seen."""
        if not self._stop:
            return piece
        text = self._held + piece
        # The one that is complete first, so that the cut is the same however the text comes in pieces.
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stop if stop in text]
        if found:
            self.matched = True
            self._held = ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """Return what was held back; the stream has ended, so it was no stop text."""
        held, self._held = self._held, ""
        return held


class ReasoningSplitter:
    """Sends what stands between a leading <think> and </think> to `reasoning`, everything else to `text`.

    Only a tag that opens the answer counts, so a model may write about <think> without losing a word.
    """

    def __init__(self) -> None:
        self._held = ""
        self._state = "start"

    def feed(self, piece: str) -> Chunk:
        text = self._held + piece
        self._held = ""
        if self._state == "start":
            opening = text.lstrip()
            may_open = len(opening) < len(THINK_OPEN) and THINK_OPEN.startswith(opening)
            if may_open and len(text) < LONGEST_START:
                self._held = text
                return Chunk()
            self._state = "opened" if opening.startswith(THINK_OPEN) else "answer"
            text = opening[len(THINK_OPEN) :] if self._state == "opened" else text
        if self._state == "opened":
            text = text.lstrip()
            self._state = "thinking" if text else "opened"
        if self._state in ("opened", "thinking"):
            return self._think(text)
        if self._state == "gap":
            text = text.lstrip()
            self._state = "answer" if text else "gap"
        return Chunk(text=text)

    def _think(self, text: str) -> Chunk:
        thought, tag, answer = text.partition(THINK_CLOSE)
        if tag:
            self._state = "answer" if answer.lstrip() else "gap"
            return Chunk(reasoning=thought, text=answer.lstrip())
        keep = _overlap(text, THINK_CLOSE)
        self._held = text[len(text) - keep :]
        return Chunk(reasoning=text[: len(text) - keep])

    def flush(self) -> Chunk:
        """Return what was held back when the stream ends."""
        held, self._held = self._held, ""
        return Chunk(reasoning=held) if self._state == "thinking" else Chunk(text=held)


def split_reasoning(stream: Iterable[str | Chunk]) -> Iterator[Chunk]:
    """Yield the stream as chunks, with reasoning apart from the text."""
    splitter = ReasoningSplitter()
    for piece in stream:
        if isinstance(piece, str):
            yield splitter.feed(piece)
        elif piece.text and not piece.reasoning:
            split = splitter.feed(piece.text)
            yield Chunk(split.text, split.reasoning, piece.finish_reason, piece.usage, piece.progress)
        else:
            yield piece
    yield splitter.flush()


def as_chunks(stream: Iterable[str | Chunk]) -> Iterator[Chunk]:
    """Yield the stream as chunks, its text untouched."""
    return (Chunk(text=piece) if isinstance(piece, str) else piece for piece in stream)


def ended_by(stop: Sequence[str] | None, stream: Iterable[str | Chunk]) -> Iterator[str | Chunk]:
    """Yield a stream up to the first stop text in it, for backends that leave that to others; it is then closed."""
    if not stop:
        yield from stream
        return
    matcher = StopMatcher(stop)
    for piece in stream:
        chunk = Chunk(text=piece) if isinstance(piece, str) else piece
        yield replace(chunk, text=matcher.feed(chunk.text)) if chunk.text else chunk
        if matcher.matched:
            yield Chunk(finish_reason="stop")
            return
    yield Chunk(text=matcher.flush())


def or_whole(stream: Iterable[str | Chunk], whole: Callable[[], str]) -> Iterator[str | Chunk]:
    """Yield a stream; a backend that can only answer at once yields nothing, and is asked for the whole."""
    silent = True
    for piece in stream or ():
        silent = False
        yield checked_piece(piece)
    if silent:
        yield checked_piece(whole())


def checked_piece(piece: object) -> str | Chunk:
    """Return what a backend gave if it is text or a Chunk of texts; a backend of a user's own may give anything.

    Raises:
        GenerationError: it is neither.
    """
    if not isinstance(piece, (str, Chunk)):
        raise GenerationError(f"The backend gave {type(piece).__name__} where it must give str or Chunk.")
    for text in (piece.text, piece.reasoning) if isinstance(piece, Chunk) else ():
        if not isinstance(text, str):
            raise GenerationError(f"The backend gave a Chunk with {type(text).__name__} where it must give str.")
    return piece


def clean_text(text: str) -> str:
    """Return a text without control characters (tab and newline stay), lone surrogates replaced by U+FFFD."""
    return (
        CONTROL_CHARACTERS.sub("", text.replace("\r\n", "\n"))
        .encode("utf-16", "surrogatepass")
        .decode("utf-16", "replace")
    )


def clean_message(message: Message | Mapping[str, Any]) -> Message:
    """Return a message of a chat, given as one or as a mapping, with its text cleaned and its pictures checked."""
    if not isinstance(message, Message):
        message = Message(message.get("role"), message.get("content"), message.get("images") or ())  # type: ignore[arg-type]
    if message.role not in get_args(Role) or not isinstance(message.content, str):
        raise GenerationError('A message is {"role": "user", "content": "…"}; roles are system, user and assistant.')
    return Message(message.role, clean_text(message.content), checked_images(message.images))


def require_text(text: str) -> str:
    """Raise EmptyPrompt where nothing but blanks would be sent."""
    if not text.strip():
        raise EmptyPrompt("Write a message first.")
    return text


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
