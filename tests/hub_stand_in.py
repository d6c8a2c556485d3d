"""A stand-in of the Hugging Face Hub on loopback: the endpoints that fetching a model uses, and its faults."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
TOKEN = "hf_a-secret-that-nobody-may-see"
PIECE = 65_536
ROUTES = {
    "list": re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?"),
    "file": re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)"),
    "content": re.compile(r"/content/([0-9a-f]{64})"),
}


@dataclass
class Hub:
    """What the server has, how it misbehaves, and what it was asked.

    `files` is by repository, then by name; names ending in .gguf or .safetensors are kept as Git LFS objects, which
    the server sends from another origin, as the real one does.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False  # who has no token may see the list and nothing else
    status: int = 0  # of every answer, where not 0
    cuts: list[int] = field(default_factory=list)  # bytes after which each content's connection breaks, one by one
    ranges: bool = True
    page: bytes = b""  # what a network that asks for a log-in sends instead
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)  # method, path, headers
    go_on: threading.Event = field(default_factory=threading.Event)  # content waits for it after its first piece
    sending: threading.Event = field(default_factory=threading.Event)  # set once a first piece is out
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def asked(self, method: str, start: str = "/") -> list[dict[str, str]]:
        """Return the headers of the requests of a method to paths with a beginning."""
        return [headers for asked, path, headers in self.requests if asked == method and path.startswith(start)]


@contextmanager
def hub_stand_in() -> Iterator[Hub]:
    hub = Hub()
    hub.go_on.set()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        hub.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.go_on.set()
            server.shutdown()
            thread.join()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def sha1(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        if self.hub.status:
            return self._send(self.hub.status, b"{}")
        if self.hub.page:
            return self._send(200, self.hub.page, {"Content-Type": "text/html"})
        for name, route in ROUTES.items():
            if match := route.fullmatch(path):
                return getattr(self, f"_send_{name}")(*match.groups())
        self._refuse(404, "EntryNotFound")

    def _send_list(self, repo: str, revision: str | None) -> None:
        if not self._has(repo, revision or "main"):
            return
        siblings = [
            {"rfilename": name, "size": len(content), "blobId": sha1(content)} | _lfs(name, content)
            for name, content in self.hub.files[repo].items()
        ]
        body = {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": [], "private": False}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send_file(self, repo: str, revision: str, name: str) -> None:
        if not self._has(repo, revision):
            return None
        if self.hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401 if "Authorization" not in self.headers else 403, "GatedRepo")
        if name not in self.hub.files[repo]:
            return self._refuse(404, "EntryNotFound")
        content = self.hub.files[repo][name]
        if not _lfs(name, content):
            return self._send_content_of(content, {"ETag": f'"{sha1(content)}"', "X-Repo-Commit": COMMIT})
        headers = {
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{sha256(content)}"',
            "X-Linked-Size": str(len(content)),
            "Location": f"http://localhost:{self.hub.port}/content/{sha256(content)}?signature=secret",
        }
        return self._send(302, b"", headers)

    def _send_content(self, digest: str) -> None:
        contents = [content for files in self.hub.files.values() for content in files.values()]
        content = next((content for content in contents if sha256(content) == digest), None)
        if content is None:
            return self._refuse(403, "")
        return self._send_content_of(content, {"ETag": f'"{digest}"'})

    def _send_content_of(self, content: bytes, headers: dict[str, str]) -> None:
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if self.hub.ranges else None
        rest = content[int(start[1]) :] if start else content
        status = 206 if start else 200
        if start:
            headers["Content-Range"] = f"bytes {start[1]}-{len(content) - 1}/{len(content)}"
        self._head(status, len(rest), headers)
        if self.command == "HEAD":
            return
        cut = self.hub.cuts.pop(0) if self.hub.cuts else None
        try:
            for place in range(0, len(rest[:cut]), PIECE):
                self.wfile.write(rest[:cut][place : place + PIECE])
                self.wfile.flush()
                self.hub.sending.set()
                self.hub.go_on.wait()
        except OSError:
            self.close_connection = True  # nobody reads any more
        if cut is not None:
            self.close_connection = True

    def _has(self, repo: str, revision: str) -> bool:
        """Tell whether there is such a repository and revision; answer the request where there is not."""
        if repo not in self.hub.files:
            self._refuse(404 if self.headers.get("Authorization") else 401, "RepoNotFound")
        elif revision not in (*self.hub.revisions, COMMIT):
            self._refuse(404, "RevisionNotFound")
        else:
            return True
        return False

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b'{"error": "no"}', {"X-Error-Code": code} if code else {})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self._head(status, len(body), headers or {})
        if self.command != "HEAD":
            self.wfile.write(body)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(length)}).items():
            self.send_header(name, value)
        self.end_headers()


def _lfs(name: str, content: bytes) -> dict[str, Any]:
    if not name.lower().endswith((".gguf", ".safetensors")):
        return {}
    return {"lfs": {"sha256": sha256(content), "size": len(content), "pointerSize": 130}}
