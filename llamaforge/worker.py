"""A backend in a child process: python -m llamaforge.worker module:Class.

Speaks lines of JSON with worker_backend.py over its pipes. File descriptors 0 and 1 are moved away first, so that
nothing a native library prints is taken for a line, and nothing that asks a question waits for one. The child ends
when its pipe closes, so it cannot outlive its parent.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import IO, Any

from .backends.base import BaseBackend
from .errors import GenerationError, LlamaForgeError, ModelError
from .text_stream import checked_piece
from .types import Chunk, Image, Message, Prompt

BEAT = 0.5  # seconds between signs of life
FLUSH = 0.01  # text is sent every 10 ms: as fast as in-process, and unseen by a reader
LONGEST_LINE = 64 * 2**20
STREAMS = ("generate_stream", "chat_stream")


class Server:
    """Serves one backend over a pipe: one call at a time, "stop" at any time, the end when the pipe closes."""

    def __init__(self, make: Callable[[], BaseBackend], lines_in: IO[bytes], lines_out: IO[bytes]) -> None:
        self._make = make
        self._in = lines_in
        self._out = lines_out
        self._backend = BaseBackend()  # until the real one is imported
        self._calls: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._asides: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()  # answered beside a running call
        self._writing = threading.Lock()
        self._pending = threading.Lock()
        self._text: list[str] = []
        self._request = 0  # that the pending text belongs to
        self._has_text = threading.Event()
        self._stop = 0  # the request that was told to stop
        self._parent = os.getppid()

    def serve(self) -> None:
        threading.Thread(target=self._beat, daemon=True).start()
        self._backend = self._make()  # the heart beats already: to import an engine may take long
        for target in (self._read, self._flush_often, self._serve_asides):
            threading.Thread(target=target, daemon=True).start()
        while True:
            self._run(self._calls.get())

    def _serve_asides(self) -> None:
        while True:
            self._run(self._asides.get())

    def _read(self) -> None:
        for raw in iter(lambda: self._in.readline(LONGEST_LINE), b""):
            line = json.loads(raw)
            if line["call"] == "stop":
                self._stop = line["id"]
                self._stop_backend()
            else:
                (self._asides if line["id"] < 0 else self._calls).put(line)
        os._exit(0)  # the parent closed the pipe or died: whatever is running, nobody waits for it

    def _stop_backend(self) -> None:
        # A backend of a user's own may raise anything; who hears nothing is killed.
        with suppress(Exception):
            self._backend.stop()

    def _beat(self) -> None:
        while True:
            if os.getppid() != self._parent:
                os._exit(0)  # the parent is gone, but a process that it forked holds the pipe open
            self._write({"beat": 1, "load_progress": self._load_progress()})
            time.sleep(BEAT)

    def _load_progress(self) -> dict[str, Any] | None:
        with suppress(Exception):  # a backend of a user's own may raise anything; the heart beats on
            progress = self._backend.load_progress()
            return asdict(progress) if progress is not None else None
        return None

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
        # A backend of a user's own may raise anything, sys.exit() included; its child goes on.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            self._reply(request, error=_fields(_typed(call["call"], error)))

    def _value(self, request: int, method: str, arguments: list[Any]) -> Any:
        if method == "load_model":
            self._backend.load_model(*arguments)
            return {
                "context_window": self._backend.context_window,
                "sees_images": self._backend.sees_images,
                "summary": list(self._backend.summary()),
                "warnings": list(self._backend.warnings()),
            }
        if method in ("chat_stream", "render"):
            arguments[0] = [_message(fields) for fields in arguments[0]]
        value = getattr(self._backend, method)(*arguments)
        if method not in STREAMS:
            return asdict(value) if isinstance(value, Prompt) else value
        for given in value:
            if self._stop == request:
                self._stop_backend()  # again: it may have been told before it began
            piece = checked_piece(given)
            if isinstance(piece, str):
                self._send_text(request, piece)
            else:
                self._send_chunk(request, piece)
        return None

    def _send_text(self, request: int, text: str) -> None:
        """Send a text within 10 ms, with what comes meanwhile, so that a fast engine is not slowed by the pipe."""
        with self._pending:
            self._text.append(text)
            self._request = request
        self._has_text.set()

    def _send_chunk(self, request: int, chunk: Chunk) -> None:
        if chunk.text and chunk == Chunk(text=chunk.text):
            self._send_text(request, chunk.text)
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


def line_of(message: Message) -> dict[str, Any]:
    """Return a message as it is sent to a child: its pictures in base64."""
    images = [{"data": base64.b64encode(image.data).decode(), "type": image.media_type} for image in message.images]
    return {"role": message.role, "content": message.content, "images": images}


def _message(line: Mapping[str, Any]) -> Message:
    images = tuple(Image(base64.b64decode(image["data"]), image["type"]) for image in line["images"])
    return Message(line["role"], line["content"], images)


def _typed(call: str, error: BaseException) -> LlamaForgeError:
    what = f"{type(error).__name__}: {error}"
    details = traceback.format_exc()
    if call == "load_model":
        return ModelError(f"The model could not be loaded: {what}", details=details)
    return GenerationError(f"The model stopped with an error: {what}", details=details)


def _fields(error: LlamaForgeError) -> dict[str, Any]:
    plain = {k: v for k, v in error.__dict__.items() if isinstance(v, (str, int, float, bool, type(None)))}
    return {"type": type(error).__name__, "message": str(error), "attributes": plain}


def main(place: str) -> None:
    """Serve the backend at "module:Class" to the parent on the other end of stdin and stdout."""
    lines_in, lines_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _write_no_core_dump()
    module, name = place.split(":")
    Server(lambda: getattr(importlib.import_module(module), name)(), lines_in, lines_out).serve()


def _write_no_core_dump() -> None:
    """A dump of a model's memory would fill the disk, and hold up the restart for as long as that takes."""
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limits
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    main(sys.argv[1])
