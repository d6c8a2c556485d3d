"""One answer, from the moment it is asked for until its last word: a buffer that one thread fills and others read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

from .errors import GenerationError, LlamaForgeError
from .types import Chunk, FinishReason, News, PluginNote, Result, Usage

SHORTEST_MEASURE = 0.1  # seconds; text comes in parcels, so the speed of less is no speed
PAUSE = 0.005  # seconds between two looks at a fast engine, which a reader woken for every token would slow by a fifth
STOP_PATIENCE = 1.0  # seconds that a stopped backend has for its last words, the token counts


class Generation:
    """An answer being waited for, written, or done; safe to read and to stop from any thread.

    Iterating gives the text piece by piece and raises the error that ended it, if one did. Leaving the loop early
    stops the engine. The thoughts of a reasoning model are in `reasoning`, apart from the text.

    Args:
        model: the name of the model that is asked.
        settings: the set parameters that it is asked with, the seed of its random numbers among them.
    """

    def __init__(
        self, on_stop: Callable[[Generation], None], *, model: str = "", settings: Mapping[str, Any] | None = None
    ) -> None:
        self.model = model
        self.settings: Mapping[str, Any] = dict(settings or {})
        self._on_stop = on_stop
        self._changed = threading.Condition()
        self._ended = threading.Event()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._started: float | None = None
        self._first: float | None = None
        self._progress: float | None = None
        self._note = ""
        self._finish_reason: FinishReason | None = None
        self._usage: Usage | None = None
        self.dropped = 0  # messages at the beginning that the model is not given
        self.notes: tuple[PluginNote, ...] = ()  # what plugins have to say about it
        self._stopping = False
        self._told: float | None = None
        self._result: Result | None = None

    def __iter__(self) -> Iterator[str]:
        place = 0
        try:
            while True:
                begun = time.perf_counter()
                with self._changed:
                    while len(self._text) == place and self._result is None:
                        self._changed.wait()
                if time.perf_counter() - begun < PAUSE:
                    self._ended.wait(PAUSE)
                result = self._result  # before the text, so that none comes after it
                pieces = self._text[place:]
                place += len(pieces)
                yield from pieces
                if result is not None and not pieces:
                    break
        finally:
            self.stop()
        if result.error is not None:
            raise result.error

    def __enter__(self) -> Generation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def text(self) -> str:
        """The answer as far as it is written."""
        return "".join(self._text)

    @property
    def reasoning(self) -> str:
        """The thoughts before the answer, as far as they are written."""
        return "".join(self._reasoning)

    @property
    def result(self) -> Result | None:
        """What is known once the answer has ended; None until then."""
        return self._result

    @property
    def progress(self) -> float | None:
        """The share of the prompt that has been evaluated, 0 to 1; None before it starts or where unknown."""
        return self._progress

    @property
    def note(self) -> str:
        """What is waited for, for people, while there is no text; empty for the usual."""
        return self._note

    @property
    def running(self) -> bool:
        """Whether the engine has begun; False while it waits in line for another answer."""
        return self._started is not None

    @property
    def stopping(self) -> bool:
        """Whether stop() has been called before the end."""
        return self._stopping

    def since(self, place: tuple[int, int] = (0, 0)) -> News:
        """Return what was added since `place`, in time that grows with what is new and not with the answer.

        Args:
            place: the `place` of the news before; (0, 0) for everything. Each reader keeps its own.
        """
        text, reasoning = self._text[place[0] :], self._reasoning[place[1] :]
        behind = place[0] + len(text), place[1] + len(reasoning)
        return News("".join(text), "".join(reasoning), behind)

    def wait_for_news(self, place: tuple[int, int] = (0, 0), timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds for text or thoughts behind `place`, or the end; False where none came."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._result is not None or len(self._text) > place[0] or len(self._reasoning) > place[1],
                timeout,
            )

    @property
    def length(self) -> int:
        """How many pieces of text and reasoning there are; grows with every change, so a reader can tell news."""
        return len(self._text) + len(self._reasoning)

    def stop(self) -> None:
        """Ask the engine to end this answer; what is written stays. Harmless when it has ended."""
        with self._changed:
            if self._result is not None or self._stopping:
                return
            self._stopping = True
        self._on_stop(self)

    def wait(self, timeout: float | None = None) -> Result | None:
        """Wait up to `timeout` seconds for the end and return the result, None if it has not ended by then."""
        self._ended.wait(timeout)
        return self._result

    def run(self, stream: Callable[[], Iterable[Chunk]]) -> None:
        """Fill the buffer from a stream; the engine's thread calls this once."""
        self._started = time.perf_counter()
        error: Exception | None = None
        try:
            for chunk in () if self._stopping else stream():
                if self._stopping and not self._heed_stop():
                    break
                self._append(chunk)
        except LlamaForgeError as known:
            error = known
        # A backend of a user's own may raise anything, sys.exit() included; the page and the next message must go on.
        except (Exception, SystemExit) as unknown:  # noqa: BLE001
            error = GenerationError(f"The model stopped with an error: {type(unknown).__name__}: {unknown}")
            error.__cause__ = unknown
        self.end(error)

    def _heed_stop(self) -> bool:
        """Tell the backend again, which may have been told before it began; False once it had its time to end."""
        now = time.perf_counter()
        self._told = self._told or now
        self._on_stop(self)
        return now - self._told < STOP_PATIENCE

    def _append(self, chunk: Chunk) -> None:
        # Once stopped, the token counts are taken and no word more.
        text, reasoning = ("", "") if self._stopping else (chunk.text, chunk.reasoning)
        with self._changed:
            if text or reasoning:
                self._first = self._first or time.perf_counter()
                self._note = ""
            if text:
                self._text.append(text)
            if reasoning:
                self._reasoning.append(reasoning)
            self._note = chunk.note or self._note
            if chunk.progress is not None:
                self._progress = chunk.progress
            self._usage = chunk.usage or self._usage
            self.dropped = chunk.dropped or self.dropped
            self.notes += chunk.notes
            self._finish_reason = chunk.finish_reason or self._finish_reason
            self._changed.notify_all()

    def end(self, error: Exception | None = None) -> None:
        """Write the result and wake every reader."""
        now = time.perf_counter()
        started = self._started or now
        tokens = self._usage.completion_tokens if self._usage else 0
        writing = now - self._first if self._first else 0.0
        finish = self._finish_reason or ("cancelled" if self._stopping else "stop")
        with self._changed:
            self._result = Result(
                text=self.text,
                reasoning=self.reasoning,
                finish_reason="error" if error else finish,
                usage=self._usage,
                seconds=now - started,
                time_to_first_token=self._first - started if self._first else None,
                tokens_per_second=(tokens - 1) / writing if tokens > 1 and writing >= SHORTEST_MEASURE else None,
                error=error,
                dropped=self.dropped,
                notes=self.notes,
            )
            self._changed.notify_all()
        self._ended.set()
