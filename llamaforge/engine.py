"""One loaded backend and the threads that touch it; answers wait in line, first come, first served, some after all.

A local model is one lane: two threads in one llama.cpp context abort the process, so nothing else may call the backend
while it is loaded, except its `stop`. A service has as many lanes as it may answer at once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from .backends.base import BaseBackend
from .errors import Busy, ModelError, NoModelLoaded
from .generation import Generation
from .types import Chunk

logger = logging.getLogger("llamaforge")

Stream = Callable[[BaseBackend], Iterable[Chunk]]
Value = TypeVar("Value")


class Waiting(NamedTuple):
    """An answer in line; every other goes before one that is `last`, and it is stopped after `longest` seconds."""

    generation: Generation
    stream: Stream
    last: bool
    longest: float | None


class Engine:
    """A loaded backend with its line of waiting answers."""

    def __init__(self, backend: BaseBackend, model: str = "", *, longest_line: int = 64) -> None:
        self.backend = backend
        self._model = model
        self._longest_line = longest_line
        self._changed = threading.Condition()
        self._waiting: deque[Waiting] = deque()
        self._current: dict[Generation, BaseBackend] = {}  # the running answers, each with its lane
        self._closing = False
        lanes = backend.lanes()
        self._open_lanes = len(lanes)
        # Daemons, so that a script which ends in the middle of an answer ends; LlamaForge closes them at exit.
        self._threads = [
            threading.Thread(target=self._work, args=[lane], name="llamaforge-engine", daemon=True) for lane in lanes
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        stream: Stream,
        settings: Mapping[str, Any] | None = None,
        *,
        last: bool = False,
        longest: float | None = None,
    ) -> Generation:
        """Put an answer into the line; `stream` is called with the lane that has come free.

        Args:
            settings: what the answer is asked with, for whoever reads it.
            last: let every answer that is not `last` go before this one.
            longest: seconds that it may be written for; it is stopped then, whether anybody reads it or not.
        """
        generation = Generation(self._stop, model=self._model, settings=settings)
        with self._changed:
            if self._closing:
                raise NoModelLoaded("The model was unloaded. Load one and send your message again.")
            if len(self._waiting) >= self._longest_line:
                raise Busy(f"{len(self._waiting)} messages wait for an answer already. Try again in a minute.")
            before = [waiting for waiting in self._waiting if last or not waiting.last]
            self._waiting.insert(len(before), Waiting(generation, stream, last, longest))
            self._changed.notify()
        return generation

    def position(self, generation: Generation) -> int:
        """Return how many answers are before this one; 0 when it is running or done."""
        with self._changed:
            line = [waiting.generation for waiting in self._waiting]
            return line.index(generation) + len(self._current) if generation in line else 0

    def read(self, read: Callable[[BaseBackend], Value]) -> Value | None:
        """Return what a backend tells beside its answers; of one that cannot, None while an answer runs."""
        if self.backend.reads_beside:
            try:
                return read(self.backend)
            except ModelError:
                if self._closing:
                    return None  # it was unloaded meanwhile
                raise
        with self._changed:  # no answer begins meanwhile
            return None if self._current or self._waiting or self._closing else read(self.backend)

    def close(self) -> None:
        """Stop every answer, wait for the running ones to end, and unload the model."""
        with self._changed:
            self._closing = True
            everyone = [*(waiting.generation for waiting in self._waiting), *self._current]
            self._changed.notify_all()
        for generation in everyone:
            generation.stop()
        # The garbage collector may free a LlamaForge, and so close its engine, in one of the engine's own threads.
        if threading.current_thread() in self._threads:
            return
        while alive := [thread for thread in self._threads if thread.is_alive()]:
            with self._changed:
                lanes = list(self._current.values()) or [self.backend]
            for lane in lanes:
                self._guarded(lane.stop)  # again and again: it may be about to mend what the last answer broke
            alive[0].join(0.1)

    def _stop(self, generation: Generation) -> None:
        with self._changed:
            if generation in self._current:
                if generation.result is not None:
                    return
                # Inside the lock, so that the flag never hits the next answer.
                self._guarded(self._current[generation].stop)
                return
            self._waiting = deque(waiting for waiting in self._waiting if waiting.generation is not generation)
        if not generation.running:
            generation.end()

    def _work(self, lane: BaseBackend) -> None:
        while (answer := self._next(lane)) is not None:
            generation, stream, longest = answer
            with _stopped_after(longest, generation):
                generation.run(functools.partial(stream, lane))
            if not self._closing:
                self._guarded(lane.recover)
            with self._changed:
                del self._current[generation]
            del answer, generation, stream  # a chat may be long, and the next one may be hours away
        with self._changed:
            self._open_lanes -= 1
            last_lane = self._open_lanes == 0
        if last_lane:
            self._guarded(self.backend.unload_model)

    def _next(self, lane: BaseBackend) -> tuple[Generation, Stream, float | None] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            generation, stream, _, longest = self._waiting.popleft()
            self._current[generation] = lane
            return generation, stream, longest

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        # A backend of a user's own may raise anything; without this thread nobody would ever get an answer.
        except (Exception, SystemExit) as failure:  # noqa: BLE001
            logger.warning("%s.%s failed: %r", type(self.backend).__name__, step.__name__, failure)


@contextlib.contextmanager
def _stopped_after(seconds: float | None, generation: Generation) -> Iterator[None]:
    """Stop an answer that takes longer."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, generation.stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
