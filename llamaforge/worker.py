"""A backend in a child process: python -m llamaforge.worker module:Class.

Speaks lines of JSON with worker_backend.py over its pipes. File descriptor 1 is moved away first, so that nothing a
native library prints is taken for a line. The child ends when its pipe closes, so it cannot outlive its parent.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from dataclasses import asdict
from typing import IO, Any

from .backends.base import BaseBackend
from .errors import GenerationError, LlamaForgeError
from .types import Chunk, Message

BEAT = 1.0  # seconds between signs of life
FLUSH = 0.01  # text is sent every 10 ms: as fast as in-process, and unseen by a reader
LONGEST_LINE = 64 * 2**20
STREAMS = ("generate_stream", "chat_stream")


class Server:
    """Serves one backend over a pipe: one call at a time, "stop" at any time, the end when the pipe closes."""

    def __init__(self, backend: BaseBackend, lines_in: IO[bytes], lines_out: IO[bytes]) -> None:
        self._backend = backend
        self._in = lines_in
        self._out = lines_out
        self._calls: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._writing = threading.Lock()
        self._pending = threading.Lock()
        self._text: list[str] = []
        self._request = 0  # that the pending text belongs to
        self._has_text = threading.Event()
        self._stop = 0  # the request that was told to stop

    def serve(self) -> None:
        for target in (self._read, self._beat, self._flush_often):
            threading.Thread(target=target, daemon=True).start()
        while True:
            self._run(self._calls.get())

    def _read(self) -> None:
        for raw in iter(lambda: self._in.readline(LONGEST_LINE), b""):
            line = json.loads(raw)
            if line["call"] == "stop":
                self._stop = line["id"]
                self._backend.stop()
            else:
                self._calls.put(line)
        os._exit(0)  # the parent closed the pipe or died: whatever is running, nobody waits for it

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT)
            self._write({"beat": 1})

    def _flush_often(self) -> None:
        while True:
            self._has_text.wait()
            time.sleep(FLUSH)
            self._flush()

    def _run(self, call: dict[str, Any]) -> None:
        request = call["id"]
        try:
            value = self._value(request, call["call"], call["arguments"])
            self._reply(request, value=value)
        except LlamaForgeError as error:
            self._reply(request, error=_fields(error))
        # A backend of a user's own may raise anything; its child goes on.
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            sentence = f"The model stopped with an error: {type(error).__name__}: {error}"
            self._reply(request, error=_fields(GenerationError(sentence)))

    def _value(self, request: int, method: str, arguments: list[Any]) -> Any:
        if method == "load_model":
            self._backend.load_model(*arguments)
            return {
                "context_window": self._backend.context_window,
                "summary": list(self._backend.summary()),
                "warnings": list(self._backend.warnings()),
            }
        if method == "chat_stream":
            arguments[0] = [Message(**message) for message in arguments[0]]
        value = getattr(self._backend, method)(*arguments)
        if method not in STREAMS:
            return value
        for piece in value:
            if self._stop == request:
                self._backend.stop()  # again: it may have been told before it began
            self._send_chunk(request, piece if isinstance(piece, Chunk) else Chunk(text=piece))
        return None

    def _send_chunk(self, request: int, chunk: Chunk) -> None:
        """Send a chunk; plain text waits up to 10 ms for more, so that a fast engine is not slowed by the pipe."""
        if chunk == Chunk(text=chunk.text):
            with self._pending:
                self._text.append(chunk.text)
                self._request = request
            self._has_text.set()
            return
        self._flush()
        self._write({"id": request, "chunk": {k: v for k, v in asdict(chunk).items() if v}})

    def _flush(self) -> None:
        with self._pending:
            text, self._text = "".join(self._text), []
            self._has_text.clear()
            if text:
                self._write({"id": self._request, "chunk": {"text": text}})

    def _reply(self, request: int, **fields: Any) -> None:
        self._flush()
        self._write({"id": request, **fields})

    def _write(self, line: dict[str, Any]) -> None:
        try:
            with self._writing:
                self._out.write(json.dumps(line).encode() + b"\n")
                self._out.flush()
        except OSError:
            os._exit(0)  # the parent is gone


def _fields(error: LlamaForgeError) -> dict[str, Any]:
    plain = {k: v for k, v in error.__dict__.items() if isinstance(v, (str, int, float, bool, type(None)))}
    return {"type": type(error).__name__, "message": str(error), "attributes": plain}


def main(place: str) -> None:
    """Serve the backend at "module:Class" to the parent on the other end of stdin and stdout."""
    lines_out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    module, name = place.split(":")
    backend = getattr(importlib.import_module(module), name)()
    Server(backend, sys.stdin.buffer, lines_out).serve()


if __name__ == "__main__":
    main(sys.argv[1])
