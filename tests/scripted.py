"""Small real backends for tests, and a way to wait for what has no event."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from llamaforge.backends.base import BaseBackend
from llamaforge.types import Chunk

ROOT = Path(__file__).parent.parent
PATIENCE = 10.0  # seconds; a test that waits longer has failed
STOP = object()


class ScriptedBackend(BaseBackend):
    """Says what the test puts into `words`; None ends an answer, an exception is raised."""

    def __init__(self) -> None:
        self.words: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self.unloaded = threading.Event()
        self._stopped = threading.Event()

    def say(self, *words: str | Chunk | BaseException | None) -> None:
        for word in words:
            self.words.put(word)

    def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
        self.unloaded.clear()

    def is_model_loaded(self) -> bool:
        return not self.unloaded.is_set()

    def generate_stream(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> Iterator[str | Chunk]:
        self.threads.add(threading.get_ident())
        self.asked.append(prompt)
        self._stopped.clear()
        yield Chunk()
        while (word := self.words.get(timeout=PATIENCE)) is not None:
            if word is STOP:
                if self._stopped.is_set():
                    return
            elif isinstance(word, BaseException):
                raise word
            else:
                yield word

    def stop(self) -> None:
        self._stopped.set()
        self.words.put(STOP)

    def unload_model(self) -> None:
        self.unloaded.set()


def until(condition: Callable[[], object]) -> None:
    """Wait for a state that no event tells."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.001)


def run_python(script: str, *arguments: object, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own; the test judges its exit code and what it printed."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60)


def claim_version(site: Path, package: str, version: str) -> None:
    """Let a folder of packages say that one of them is installed in some version."""
    info = site / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n", "utf-8")
