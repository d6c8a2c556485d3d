"""A backend that goes wrong on demand: the parameter `mode` says how, in a message or while loading.

A message names its own mode, so that one loaded model can crash in one answer and show in the next that it is well.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from llamaforge.backends.base import BaseBackend
from llamaforge.backends.parameters import Parameters, generate
from llamaforge.types import Chunk, FinishReason, LoadProgress, Usage

PLACE = "fault_backend:FaultBackend"
ENDLESS = 100_000  # words; more than any test waits for
BIG = 10_000_000
NOISE = b"".join(b'{"id": %d, "chunk": {"text": "noise"}}\n' % number for number in range(20)) + b"no line\n"

Mode = Literal[
    "ok",
    "slow",
    "silent",
    "raise_at",
    "sys_exit",
    "segv",
    "exit",
    "hang",
    "freeze",
    "flood",
    "big_piece",
    "bad_utf8",
    "bytes",
    "none",
    "dict",
    "number_in_chunk",
    "ignore_stop",
    "noisy",
    "asks",
    "core_limit",
    "load_hang",
    "load_raise",
    "load_exit",
    "load_segv",
    "load_slow",
]


class FaultParameters(Parameters):
    """What goes wrong, and when."""

    mode: Mode | None = generate("ok", "What goes wrong.")
    after: int | None = generate(3, "Words before it goes wrong.", ge=0, le=ENDLESS)
    load_seconds: float | None = generate(0.0, "How long load_slow takes.", ge=0, le=60)
    max_tokens: int | None = generate(None, "Longest answer in words.", ge=1, le=1_048_576)


class FaultBackend(BaseBackend):
    """Counts: "0 1 2 ", a word a token."""

    Parameters = FaultParameters

    def __init__(self) -> None:
        self._loaded = False
        self._progress: LoadProgress | None = None
        self._stopped = threading.Event()

    def load_model(self, model_path: str, parameters: Mapping[str, Any] | None = None) -> None:
        settings = parameters or {}
        mode = settings.get("mode", "ok")
        if mode == "load_hang":
            wait_for_ever()
        elif mode == "load_slow":
            self._progress = LoadProgress(0.42)
            time.sleep(settings.get("load_seconds", 0))
        elif mode == "load_raise":
            raise ValueError("the weights are upside down")
        elif mode == "load_exit":
            sys.exit(3)
        elif mode == "load_segv":
            print("the last words of a loader", file=sys.stderr, flush=True)
            crash()
        self._loaded = True

    def load_progress(self) -> LoadProgress | None:
        return self._progress

    def is_model_loaded(self) -> bool:
        return self._loaded

    def unload_model(self) -> None:
        self._loaded = False

    def stop(self) -> None:
        self._stopped.set()

    def generate_stream(self, prompt: str, parameters: Mapping[str, Any] | None = None) -> Iterator[Any]:
        settings = parameters or {}
        mode = settings.get("mode", "ok")
        self._stopped.clear()
        yield Chunk()
        fault = getattr(self, f"_{mode}", None)
        if fault is None:
            yield from self._count(settings.get("max_tokens"))
            return
        if mode not in ("silent", "flood"):
            yield from (f"{number} " for number in range(settings.get("after", 3)))
        yield from fault()

    def _count(self, limit: int | None, pause: float = 0.0) -> Iterator[str | Chunk]:
        finish: FinishReason = "length" if limit else "stop"
        said = 0
        for said in range(1, (limit or ENDLESS) + 1):
            yield f"{said - 1} "
            if self._stopped.wait(pause) if pause else self._stopped.is_set():
                finish = "cancelled"
                break
        yield Chunk(finish_reason=finish, usage=Usage(1, said))

    def _slow(self) -> Iterator[Any]:
        return self._count(None, pause=0.05)

    def _silent(self) -> Iterator[Any]:
        self._stopped.wait()
        return
        yield

    def _raise_at(self) -> Iterator[Any]:
        raise ValueError("the weights melted")
        yield

    def _sys_exit(self) -> Iterator[Any]:
        sys.exit(3)
        yield

    def _segv(self) -> Iterator[Any]:
        time.sleep(0.1)  # the words before it are on their way by then
        print("the last words of an engine", file=sys.stderr, flush=True)
        crash()
        yield

    def _exit(self) -> Iterator[Any]:
        time.sleep(0.1)
        os._exit(7)
        yield

    def _hang(self) -> Iterator[Any]:
        wait_for_ever()
        yield

    def _freeze(self) -> Iterator[Any]:
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGSTOP)
        yield

    def _flood(self) -> Iterator[Any]:
        while not self._stopped.is_set():
            yield "x"

    def _big_piece(self) -> Iterator[Any]:
        yield "x" * BIG

    def _bad_utf8(self) -> Iterator[Any]:
        yield "\ud83e half a llama"
        yield Chunk(text=" and \udc80 a byte", reasoning="\udfff")

    def _bytes(self) -> Iterator[Any]:
        yield b"bytes"

    def _none(self) -> Iterator[Any]:
        yield None

    def _dict(self) -> Iterator[Any]:
        yield {"text": "a dict"}

    def _number_in_chunk(self) -> Iterator[Any]:
        yield Chunk(text=42)  # type: ignore[arg-type]

    def _ignore_stop(self) -> Iterator[Any]:
        for number in range(ENDLESS):
            yield f"{number} "
            time.sleep(0.005)

    def _noisy(self) -> Iterator[Any]:
        for _ in range(50):
            os.write(1, NOISE)
            os.write(2, b"no line end " * 1000)
            print("printed", end="", flush=True)
        yield "quiet"

    def _asks(self) -> Iterator[Any]:
        yield f"read {os.read(0, 10)!r}"

    def _core_limit(self) -> Iterator[Any]:
        yield str(resource.getrlimit(resource.RLIMIT_CORE)[0])


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(60)


def wait_for_ever() -> None:
    threading.Event().wait()
