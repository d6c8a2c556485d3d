"""From the bytes of an answer to its chunks: events or one JSON, as servers send them and not as they should.

Bytes go in piece by piece. What is wrong raises once everything before it has come out.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from ..errors import NotCompatible
from ..text_stream import StopMatcher
from ..types import Chunk, FinishReason, Usage
from .openai_address import Endpoint
from .openai_errors import NOT_UNDERSTOOD, broken, error_of, page_or_text, told

LONGEST_LINE = 2**20
LEAST_CAP = 10 * 2**20
BYTES_A_TOKEN = 8
WRAPPING = 64  # bytes on the wire for each byte of text: an event holds a few letters and much around them
FILTERED = "The service filtered this answer."

_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":", b"error:")


class AnswerReader:
    """Reads one answer.

    Args:
        stop: texts that end the answer; some servers send them all the same.
        max_tokens: how long the answer may be; one that goes on for ever is cut off.
    """

    def __init__(self, endpoint: Endpoint, stop: Sequence[str] = (), max_tokens: int | None = None) -> None:
        self._endpoint = endpoint
        self._matcher = StopMatcher(stop)
        self._cap = max(LEAST_CAP, BYTES_A_TOKEN * (max_tokens or 0))
        self._wire = self._written = 0
        self._buffer = bytearray()
        self._scanned = 0
        self._kind: str | None = None
        self._pending: list[bytes] = []  # the lines of an event that is not complete yet
        self._finish: FinishReason | None = None
        self._note = ""
        self._usage: Usage | None = None
        self.begun = False
        """Whether text or thoughts have come."""
        self.complete = False
        """Whether nothing more will come."""
        self.leave_at = 0.0
        """When whoever reads gives up waiting for the token counts."""

    @property
    def finished(self) -> bool:
        """Whether the text has ended; token counts may follow."""
        return self._finish is not None or self._matcher.matched

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """Yield what a piece of the answer says."""
        self._wire += len(data)
        self._buffer += data
        if self._kind is None:
            self._kind = self._recognised()
        if self._kind == "events":
            yield from self._lines()
        limit = self._cap * (WRAPPING if self._kind == "events" else 1)
        if self._wire > limit or self._written > self._cap:
            raise NotCompatible(f"{self._endpoint.host} did not stop writing; the answer was ended.")

    def end(self) -> Iterator[Chunk]:
        """Yield the rest when no more bytes come; raise where the answer is not complete."""
        if self._kind == "events":
            if self._buffer and not self.complete:
                self._buffer += b"\n"
                yield from self._lines()
            if self._pending and not self.finished:
                yield from self._event(b"\n".join(self._pending), last=True)
            if not (self.complete or self.finished):
                raise broken(self._endpoint)
        elif not self._buffer.strip():
            reason = "The chat may be too long for the model, or api_base wrong."
            raise NotCompatible(f"{self._endpoint.host} sent an empty answer. {reason}")
        else:
            yield from self._whole()

    def rest(self) -> Chunk:
        """Return the text that was held back, as it might have become a stop text."""
        return Chunk(text=self._matcher.flush())

    def last(self) -> Chunk:
        """Return how the answer ended."""
        return Chunk(finish_reason=self._finish or "stop", usage=self._usage, note=self._note)

    def _recognised(self) -> str | None:
        """Return whether events come or one JSON; None until that can be told. The content type is often wrong."""
        start = bytes(self._buffer[:64]).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not start:
            return None
        if start[:1] in (b"{", b"["):
            return "json"
        if any(start.startswith(name) for name in _FIELDS):
            return "events"
        if len(start) < 6 and any(name.startswith(start) for name in _FIELDS):
            return None
        raise page_or_text(start.decode("utf-8", "replace"))

    def _lines(self) -> Iterator[Chunk]:
        while not self.complete:
            end = self._buffer.find(b"\n", self._scanned)
            if end < 0:
                self._scanned = len(self._buffer)
                if len(self._buffer) > LONGEST_LINE:
                    raise NotCompatible(NOT_UNDERSTOOD)
                return
            line = bytes(self._buffer[:end]).rstrip(b"\r")
            del self._buffer[: end + 1]
            self._scanned = 0
            if len(line) > LONGEST_LINE:
                raise NotCompatible(NOT_UNDERSTOOD)
            yield from self._line(line.removeprefix(b"\xef\xbb\xbf"))

    def _line(self, line: bytes) -> Iterator[Chunk]:
        name, colon, value = line.partition(b":")
        if not line:
            pending, self._pending = self._pending, []
            if pending:
                yield from self._event(b"\n".join(pending), last=True)
        elif name in (b"data", b"error") and colon:
            value = value.removeprefix(b" ")
            if self._pending or not (yield from self._event(value, last=False)):
                self._pending.append(value)
                if sum(map(len, self._pending)) > LONGEST_LINE or len(self._pending) > 1000:
                    raise NotCompatible(NOT_UNDERSTOOD)
        elif name == b"" or name in (b"event", b"id", b"retry", b"data"):
            return
        else:
            # Some report an error as bare JSON between the events.
            yield from self._event(line, last=True)

    def _event(self, data: bytes, *, last: bool) -> Generator[Chunk, None, bool]:
        """Yield what one event says; return False where it is not complete and more of it may follow."""
        if data.strip() == b"[DONE]":
            self.complete = True
            return True
        if not data.strip():
            return True
        event = _parsed(data)
        if event is None:
            if not last:
                return False
            raise NotCompatible(NOT_UNDERSTOOD)
        yield from self._said(event, "delta")
        return True

    def _whole(self) -> Iterator[Chunk]:
        event = _parsed(bytes(self._buffer))
        if not isinstance(event, dict) or not ("choices" in event or event.get("error")):
            if isinstance(event, dict) and (error := error_of(event)):
                raise told(error, self._endpoint)
            raise NotCompatible(NOT_UNDERSTOOD)
        yield from self._said(event, "message")
        self.complete = True

    def _said(self, event: Any, part: str) -> Iterator[Chunk]:
        if not isinstance(event, dict):
            raise NotCompatible(NOT_UNDERSTOOD)
        if event.get("error"):
            raise told(error_of(event) or {"message": str(event["error"])}, self._endpoint)
        self._usage = _usage(event.get("usage")) or self._usage
        choices = event.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict):
            return
        delta = _mapping(choice.get(part)) or _mapping(choice.get("message")) or _mapping(choice.get("delta"))
        yield from self._pieces(choice, delta)
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self._finish = "length" if reason == "length" else "stop"
            self._note = FILTERED if reason == "content_filter" else ""

    def _pieces(self, choice: dict[str, Any], delta: dict[str, Any]) -> Iterator[Chunk]:
        # Servers that know both names for thoughts send the same text under both.
        reasoning = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
        text = _text(delta.get("content")) or _text(delta.get("refusal")) or _text(choice.get("text"))
        self._written += len(reasoning) + len(text)
        if self._matcher.matched or not (reasoning or text):
            return
        self.begun = True
        shown = self._matcher.feed(text)
        if reasoning or shown:
            yield Chunk(text=shown, reasoning=reasoning)


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """Return a text that can be written down, also where it comes as a list of parts."""
    if isinstance(value, list):
        return "".join(_text(part.get("text")) for part in value if isinstance(part, dict))
    if not isinstance(value, str):
        return ""
    return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _usage(value: Any) -> Usage | None:
    counts = _mapping(value)
    prompt, completion = _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
    cached = _count(_mapping(counts.get("prompt_tokens_details")).get("cached_tokens"))
    return None if prompt is None or completion is None else Usage(prompt, completion, cached or 0)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
