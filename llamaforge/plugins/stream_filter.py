"""One plugin's after() in a thread of its own, asked for one thing at a time, so that one that hangs is left behind.

The two sides take turns strictly: a piece or leave to go on is put in, one reply is taken out. So nothing runs ahead,
and what a plugin was given and has not given out is known when it fails.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..errors import PluginError
from ..types import Chunk

BEAT = 0.1  # seconds between two empty Chunks while a plugin thinks
MOST_MORE = 1_000_000  # characters that a plugin may write beyond what it is given
GO, END, CLOSE, ASKS, DONE = object(), object(), object(), object(), object()


class StreamFilter:
    """A stream through somebody's generator; `problem` says why that is no longer asked.

    From then on every piece goes past it, beginning with what it was given and had not given out.
    """

    def __init__(self, after: Callable[[Iterator[Chunk]], Iterable[Chunk | str]], seconds: float) -> None:
        self._after = after
        self._seconds = seconds
        self._in: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._given: list[Chunk] = []
        self._came: list[Chunk] = []
        self._unanswered: list[Chunk] = []  # given since its last piece came
        self._more = MOST_MORE
        self.problem: BaseException | None = None
        self.hung = False
        self.ended = False  # whether it ended the answer before the engine did
        threading.Thread(target=self._work, name="llamaforge-plugin", daemon=True).start()

    def begin(self) -> Iterator[Chunk]:
        """Let it run until it asks for the first piece."""
        return self._turns(GO)

    def feed(self, piece: Chunk) -> Iterator[Chunk]:
        """Give it a piece and yield what comes of it."""
        if self.problem is not None:
            yield piece
            return
        self._given.append(piece)
        self._unanswered.append(piece)
        self._more += len(piece.text) + len(piece.reasoning)
        yield from self._turns(piece)

    def finish(self) -> Iterator[Chunk]:
        """Tell it that the engine has ended, and yield its last words."""
        if self.problem is None and not self.ended:
            yield from self._turns(END)
            self.ended = False

    def close(self) -> None:
        """Let the thread end, wherever it is."""
        self._in.put(CLOSE)

    def _turns(self, value: Any) -> Iterator[Chunk]:
        begins = value is GO
        while True:
            self._in.put(value)
            reply = yield from self._reply()
            if not isinstance(reply, Chunk):
                break
            self._more -= len(reply.text) + len(reply.reasoning)
            if self._more < 0:
                reply = PluginError("after() writes without an end")
                break
            self._came.append(reply)
            self._unanswered.clear()
            yield reply
            value = GO
        if reply is DONE and (self._given or begins) and not any(map(_says, self._came)):
            reply = PluginError("after() gave nothing of the answer")
        if isinstance(reply, BaseException):
            yield from self._fail(reply)
        self.ended = reply is DONE

    def _reply(self) -> Any:
        """Wait for the plugin, yielding empty Chunks, and return what it does next."""
        late = time.monotonic() + self._seconds
        while True:
            try:
                return self._out.get(timeout=BEAT)
            except queue.Empty:
                if time.monotonic() >= late:
                    self.hung = True
                    return PluginError("it does not end")
                yield Chunk()

    def _fail(self, problem: BaseException) -> Iterator[Chunk]:
        self.problem = problem
        self.ended = False
        self.close()
        yield self._rest()

    def _rest(self) -> Chunk:
        """Return what it was given and has not given out."""
        given, came = _joined(self._given), _joined(self._came)
        if given.text.startswith(came.text) and given.reasoning.startswith(came.reasoning):
            return Chunk(given.text[len(came.text) :], given.reasoning[len(came.reasoning) :])
        return _joined(self._unanswered)  # it has changed the text, so nobody can tell it to the letter

    # The plugin's thread

    def _work(self) -> None:
        try:
            if self._in.get() is CLOSE:
                return
            for piece in self._after(self._pieces()):
                self._out.put(_checked(piece))
                if self._in.get() is CLOSE:
                    return
            self._out.put(DONE)
        # Somebody's code may fail in any way, sys.exit() included; the reader is told.
        except BaseException as failure:  # noqa: BLE001
            self._out.put(failure)

    def _pieces(self) -> Iterator[Chunk]:
        while True:
            self._out.put(ASKS)
            piece = self._in.get()
            if not isinstance(piece, Chunk):
                return
            yield piece


def _says(piece: Chunk) -> bool:
    return bool(piece.text or piece.reasoning)


def _joined(pieces: Iterable[Chunk]) -> Chunk:
    pieces = list(pieces)
    return Chunk("".join(piece.text for piece in pieces), "".join(piece.reasoning for piece in pieces))


def _checked(piece: object) -> Chunk:
    """Return a piece that after() gave as text and reasoning alone.

    Raises:
        PluginError: it is something else.
    """
    chunk = Chunk(piece) if isinstance(piece, str) else piece
    if not isinstance(chunk, Chunk):
        raise PluginError(f"after() gave {type(piece).__name__} where it must give Chunk or str")
    for text in (chunk.text, chunk.reasoning):
        if not isinstance(text, str):
            raise PluginError(f"after() gave a Chunk with {type(text).__name__} where it must give str")
        text.encode()  # half a character could be neither kept nor shown
    return Chunk(chunk.text, chunk.reasoning)
