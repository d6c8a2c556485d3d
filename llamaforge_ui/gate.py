"""The gate before every route: which hosts, which origins, which of Gradio's routes, how large a body."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from .access import LOOPBACK, OWNER_ONLY, Access, Role

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OWNER_PAGE = "/owner"
SPACES_HOST = ".hf.space"
SPACES_FRAME = "https://huggingface.co"
TOO_LARGE = 413
LARGEST_BODY: dict[Role, int] = {"guest": 2**20, "owner": 8 * 2**20}

# Every route that is open, and to whom. Nothing else that Gradio serves is: uploads, files, proxy, API pages, calls by
# name, monitoring, MCP, its own login, "vibe" editing and whatever its next release brings.
READ = r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(assets|static|svelte)/.+"
READ_API = r"/gradio_api/(theme\.css|app_id/?|startup-events|heartbeat/[^/]+|queue/data)"
CALL = r"/gradio_api/(queue/join|run/predict|cancel|reset)/?"
INFO = r"/gradio_api/info/?"
CALL_BY_NAME = r"/gradio_api/call/(v2/)?chat(/[0-9a-f]+)?"
ROUTES: dict[Role, dict[str, re.Pattern[str]]] = {
    "guest": {"GET": re.compile(f"{READ}|{READ_API}"), "POST": re.compile(CALL)},
    "owner": {
        "GET": re.compile(f"{READ}|{READ_API}|{INFO}|{CALL_BY_NAME}"),
        "POST": re.compile(f"{CALL}|{CALL_BY_NAME}"),
    },
}
STARTUP = "/gradio_api/startup-events"
OUR_ROUTES = {
    ("GET", OWNER_PAGE),
    ("HEAD", OWNER_PAGE),
    ("POST", OWNER_PAGE),
    ("POST", f"{OWNER_PAGE}/logout"),
    ("POST", "/live"),
    ("POST", f"{OWNER_PAGE}/live"),
}
GRADIOS_OWN = re.compile(r"/(gradio_api|monitoring|login|logout|owner|file|proxy|upload|run|api|queue)\b.*")


@dataclass(slots=True)
class Hosts:
    """The names that this page may be asked by; a foreign one is a web page that wants to use the visitor's rights.

    Args:
        names: beside the loopback ones, lower case; the public ones are added once they are known.
        any_ip: whether every address of numbers is allowed: no web page can own one that is ours.
    """

    names: set[str] = field(default_factory=set)
    any_ip: bool = False
    on_spaces: bool = field(default_factory=lambda: "SPACE_ID" in os.environ)

    @classmethod
    def of(cls, access: Access, allowed: Iterable[str] = ()) -> Hosts:
        names = {name.lower() for name in allowed}
        if not access.public:
            return cls(names)
        own = socket.gethostname().lower()
        return cls(names | {own, f"{own}.local"}, any_ip=True)

    def allow(self, host: str | None) -> bool:
        """Tell whether a Host header, with or without a port, names this page."""
        name = _hostname(host)
        if name is None:
            return False
        return name in LOOPBACK or name in self.names or self._is_ip(name) or self._is_space(name)

    def allow_origin(self, origin: str, host: str | None) -> bool:
        """Tell whether a page of this origin may ask: this page itself, or one that a name of ours stands for."""
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https"):
            return False  # "null" is nobody
        if parts.netloc.lower() == (host or "").lower():
            return True
        name = _hostname(parts.netloc) or ""
        return name in self.names or self._is_space(name) or (self.on_spaces and origin == SPACES_FRAME)

    def _is_ip(self, name: str) -> bool:
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self.any_ip

    def _is_space(self, name: str) -> bool:
        return self.on_spaces and name.endswith(SPACES_HOST)


def _hostname(host: str | None) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname if host and "@" not in host else None
    except ValueError:
        return None


class TooLarge(Exception):
    """A body grew beyond what its sender may send."""


class Gate:
    """Lets a request through to Gradio, or answers it with one short sentence."""

    def __init__(self, app: ASGIApp, access: Access, hosts: Hosts) -> None:
        self._app = app
        self._access = access
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # no websocket of Gradio's 6 is in use; unanswered, the server closes it
        request = Request(scope)
        role = self._access.role(request)
        refusal = self._refusal(request, role)
        if refusal is not None:
            if refusal.status_code != TOO_LARGE:
                await _read_away(receive)
            await refusal(scope, receive, send)
            return
        try:
            await self._app(scope, _bounded(receive, LARGEST_BODY[role]), send)
        except TooLarge:
            await refuse(TOO_LARGE, "This is too large.")(scope, receive, send)

    def _refusal(self, request: Request, role: Role) -> Response | None:
        host, origin = request.headers.get("host"), request.headers.get("origin")
        if not self._hosts.allow(host):
            port = (request.scope.get("server") or ("", 7860))[1]
            return refuse(403, f"This address is not allowed. Open http://127.0.0.1:{port}.")
        if origin is not None and not self._hosts.allow_origin(origin, host):
            return refuse(403, "Another page may not use this one.")
        if int(request.headers.get("content-length") or 0) > LARGEST_BODY[role]:
            return refuse(TOO_LARGE, "This is too large.")
        return self._closed(request, role)

    def _closed(self, request: Request, role: Role) -> Response | None:
        """Return the refusal of a route that is closed to the visitor, None for an open one."""
        path = request.scope["path"]
        if (request.method, path) in OUR_ROUTES:
            return None  # they ask for the role themselves
        if self._needs_login(path) and role != "owner":
            page = request.method in ("GET", "HEAD") and path in ("/", f"{OWNER_PAGE}/")
            return RedirectResponse(OWNER_PAGE, 303) if page else refuse(403, OWNER_ONLY)
        method = "GET" if request.method == "HEAD" else request.method
        within = path.removeprefix(OWNER_PAGE) if path.startswith(f"{OWNER_PAGE}/") else path
        if method in ROUTES[role] and ROUTES[role][method].fullmatch(within):
            return None
        if role == "guest" and method in ROUTES["owner"] and ROUTES["owner"][method].fullmatch(within):
            return refuse(403, OWNER_ONLY)
        return refuse(403, "This is closed.") if GRADIOS_OWN.fullmatch(within) else refuse(404, "Nothing is here.")

    def _needs_login(self, path: str) -> bool:
        """Tell whether a path is the owner's: below /owner, and all of it where nobody else is to come."""
        if path == STARTUP:
            return False  # Gradio asks itself for it as it starts, and has no cookie; it tells nothing
        return path.startswith(f"{OWNER_PAGE}/") or not self._access.public


def refuse(status: int, sentence: str) -> Response:
    """Return a short answer that Gradio's own script can read too."""
    return JSONResponse({"error": sentence, "detail": sentence}, status)


async def _read_away(receive: Receive) -> None:
    """Read a body that nobody wants: left unread, it would break the connection under the sentence that refuses it."""
    size = 0
    while size <= LARGEST_BODY["guest"]:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            return


def _bounded(receive: Receive, most: int) -> Receive:
    """Count what arrives: a body in pieces does not say beforehand how large it is."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise TooLarge
        return message

    return counted
