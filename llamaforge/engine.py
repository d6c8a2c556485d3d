"""One loaded backend and the one thread that touches it; answers wait in line, first come, first served.

Two threads in one llama.cpp context abort the process, so nothing else may call the backend while it is loaded,
except its `stop`.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable

from .backends.base import BaseBackend
from .errors import Busy, NoModelLoaded
from .generation import Generation
from .types import Chunk

logger = logging.getLogger("llamaforge")

Stream = Callable[[], Iterable[Chunk]]


class Engine:
    """A loaded backend with its line of waiting answers."""

    def __init__(self, backend: BaseBackend, *, longest_line: int = 64) -> None:
        self.backend = backend
        self._longest_line = longest_line
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Generation, Stream]] = deque()
        self._current: Generation | None = None
        self._closing = False
        # A daemon, so that a script which ends in the middle of an answer ends; LlamaForge closes it at exit.
        self._thread = threading.Thread(target=self._work, name="llamaforge-engine", daemon=True)
        self._thread.start()

    def submit(self, stream: Stream) -> Generation:
        """Put an answer into the line."""
        generation = Generation(on_stop=self._stop)
        with self._changed:
            if self._closing:
                raise NoModelLoaded("The model was unloaded. Load one and send your message again.")
            if len(self._waiting) >= self._longest_line:
                raise Busy(f"{len(self._waiting)} messages wait for an answer already. Try again in a minute.")
            self._waiting.append((generation, stream))
            self._changed.notify()
        return generation

    def position(self, generation: Generation) -> int:
        """Return how many answers are before this one; 0 when it is running or done."""
        with self._changed:
            line = [waiting for waiting, _ in self._waiting]
            return line.index(generation) + (self._current is not None) if generation in line else 0

    def close(self) -> None:
        """Stop every answer, wait for the running one to end, and unload the model."""
        with self._changed:
            self._closing = True
            everyone = [waiting for waiting, _ in self._waiting]
            if self._current is not None:
                everyone.append(self._current)
            self._changed.notify()
        for generation in everyone:
            generation.stop()
        # The garbage collector may free a LlamaForge, and so close its engine, in the engine's own thread.
        while threading.current_thread() is not self._thread and self._thread.is_alive():
            self._guarded(self.backend.stop)  # again and again: it may be about to mend what the last answer broke
            self._thread.join(0.1)

    def _stop(self, generation: Generation) -> None:
        with self._changed:
            if generation is self._current:
                if generation.result is not None:
                    return
                # Inside the lock, so that the flag never hits the next answer.
                self._guarded(self.backend.stop)
                return
            self._waiting = deque(pair for pair in self._waiting if pair[0] is not generation)
        if not generation.running:
            generation.end()

    def _work(self) -> None:
        while (answer := self._next()) is not None:
            generation, stream = answer
            generation.run(stream)
            if not self._closing:
                self._guarded(self.backend.recover)
            del answer, generation, stream  # a chat may be long, and the next one may be hours away
        self._guarded(self.backend.unload_model)

    def _next(self) -> tuple[Generation, Stream] | None:
        with self._changed:
            self._current = None
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if not self._waiting:
                return None
            self._current, stream = self._waiting.popleft()
            return self._current, stream

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        # A backend of a user's own may raise anything; without this thread nobody would ever get an answer.
        except (Exception, SystemExit) as failure:  # noqa: BLE001
            logger.warning("%s.%s failed: %r", type(self.backend).__name__, step.__name__, failure)
