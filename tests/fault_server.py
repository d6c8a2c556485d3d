"""A server that says, byte by byte, what a test scripts: right answers, wrong ones, halves of them, and nothing."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PATIENCE = 10.0
HANG = object()  # say nothing until the client closes the connection
RESET = object()  # end the connection as a crashed server does

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Request:
    """What a client sent."""

    line: str
    headers: dict[str, str]
    body: Any


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(text: str | None = None, finish: str | None = None, **others: Any) -> bytes:
    """Return one event of an answer."""
    said = others if text is None else {"content": text, **others}
    return event(
        id="1", object="chat.completion.chunk", choices=[{"index": 0, "delta": said, "finish_reason": finish}]
    )


def http(
    status: int, body: str | bytes | dict[str, Any] = b"", kind: str = "application/json", **headers: str
) -> bytes:
    """Return a whole HTTP answer; a header's name is written with underscores."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body.encode() if isinstance(body, str) else body
    named = {"Content-Type": kind, "Content-Length": str(len(data)), "Connection": "close"}
    named |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status} Because\r\n{head}\r\n".encode() + data


def refusal(status: int, message: str, **fields: Any) -> bytes:
    """Return an error as OpenAI's API writes it."""
    return http(status, {"error": {"message": message, **fields}})


def answer(*words: str, finish: str | None = "stop") -> bytes:
    return EVENTS + b"".join(delta(word) for word in words) + delta(finish=finish) + DONE


class FaultServer:
    """Listens on loopback; each request is answered by the next reply of the script, the last one over and over.

    A reply is a list of bytes, HANG, RESET, events to wait for, and iterators of bytes.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.arrived: queue.SimpleQueue[str] = queue.SimpleQueue()  # "connection", then "request"
        self.left = threading.Event()  # the client has closed a connection in which we hung
        self.handshakes = True
        self._tls = tls
        self._replies: list[tuple[Any, ...]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.host = f"127.0.0.1:{self.port}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}/v1"

    def reply(self, *steps: Any) -> None:
        self._replies.append(steps)

    def await_arrival(self, what: str) -> None:
        while self.arrived.get(timeout=PATIENCE) != what:
            pass

    def close(self) -> None:
        # Wakes accept(), which close() alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                self._threads.append(threading.Thread(target=self._serve, args=[connection], daemon=True))
                self._threads[-1].start()

    def _serve(self, plain: socket.socket) -> None:
        plain.settimeout(PATIENCE)
        connection = plain
        with contextlib.suppress(OSError, ValueError):
            self.arrived.put("connection")
            if not self.handshakes:
                self._hang(plain)
            elif self._tls:
                connection = self._tls.wrap_socket(plain, server_side=True)
            if (request := self._read(connection)) is not None:
                self.requests.append(request)
                self.arrived.put("request")
                self._perform(connection, self._replies.pop(0) if len(self._replies) > 1 else self._replies[0])
        connection.close()

    def _perform(self, connection: socket.socket, steps: tuple[Any, ...]) -> None:
        for step in steps:
            if step is HANG:
                self._hang(connection)
            elif step is RESET:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            elif isinstance(step, threading.Event):
                step.wait(PATIENCE)
            elif isinstance(step, Iterator):
                try:
                    for piece in step:
                        connection.sendall(piece)
                except OSError:
                    self.left.set()
            else:
                connection.sendall(step)

    def _hang(self, connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while connection.recv(4096):
                pass
        self.left.set()

    @staticmethod
    def _read(connection: socket.socket) -> Request | None:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (more := connection.recv(65536)):
                return None
            data += more
            if data[:1] == b"\x16":  # a TLS handshake, to which a web server says that it understands nothing
                connection.sendall(http(400))
                return None
        head, _, body = data.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        while len(body) < int(headers.get("content-length", 0)):
            body += connection.recv(65536)
        return Request(line, headers, json.loads(body) if body else None)
