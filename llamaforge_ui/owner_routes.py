"""The owner's login page, login and logout: three small routes beside Gradio's."""

from __future__ import annotations

import html
from pathlib import Path
from string import Template

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from .access import COOKIE, LOOPBACK, Access, token_of
from .gate import OWNER_PAGE
from .login import SESSION_SECONDS, WrongPassphrase

PAGE = Template((Path(__file__).parent / "assets" / "login.html").read_text("utf-8"))
NO_OWNER = (
    "This page has no owner's login. It has one when LLAMAFORGE_OWNER_PASSWORD is set as it starts: in the "
    "environment, on a Space as a secret."
)
ALWAYS_HTTPS = (".gradio.live", ".hf.space")
UNENCRYPTED = "This connection is not encrypted: others in this network can read what you type."


def owner_routes(access: Access) -> list[Route]:
    """Return the routes; each asks for its role itself."""

    @access.route("guest")
    async def page(request: Request) -> Response:
        if access.local:
            return RedirectResponse("/", 303)
        if access.role(request) == "owner":
            return RedirectResponse(f"{OWNER_PAGE}/", 303)
        return _page(request, access, NO_OWNER if access.login is None else "")

    @access.route("guest")
    async def log_in(request: Request) -> Response:
        if access.login is None:
            return _page(request, access, NO_OWNER, 403)
        async with request.form(max_files=0, max_fields=4, max_part_size=4096) as form:
            passphrase = str(form.get("passphrase", ""))
        try:
            token = access.login.log_in(passphrase.strip(), _whence(request))
        except WrongPassphrase as wrong:
            answer = _page(request, access, str(wrong), 429 if wrong.pause else 403)
            answer.headers.update({"Retry-After": str(round(wrong.pause))} if wrong.pause else {})
            return answer
        answer = RedirectResponse(f"{OWNER_PAGE}/", 303)
        answer.set_cookie(
            COOKIE, token, max_age=SESSION_SECONDS, httponly=True, samesite="lax", secure=_is_https(request)
        )
        return answer

    @access.route("owner")
    async def log_out(request: Request) -> Response:
        if access.login is not None:
            access.login.log_out(token_of(request))
        answer = RedirectResponse(OWNER_PAGE, 303)
        answer.delete_cookie(COOKIE)
        return answer

    return [
        Route(OWNER_PAGE, page, methods=["GET"]),
        Route(OWNER_PAGE, log_in, methods=["POST"]),
        Route(f"{OWNER_PAGE}/logout", log_out, methods=["POST"]),
    ]


def _page(request: Request, access: Access, problem: str, status: int = 200) -> Response:
    hint = UNENCRYPTED if access.login is not None and not _is_https(request) and not _is_here(request) else ""
    form, chat = "" if access.login is not None else "hidden", "" if access.public else "hidden"
    text = PAGE.substitute(problem=html.escape(problem), hint=hint, form=form, chat=chat)
    return HTMLResponse(text, status, headers={"Cache-Control": "no-store"})


def _is_https(request: Request) -> bool:
    # A tunnel and a Space end TLS before us; where somebody forges this, only their own cookie is the worse for it.
    named = (request.url.hostname or "").endswith(ALWAYS_HTTPS)
    return named or "https" in (request.url.scheme, request.headers.get("x-forwarded-proto", ""))


def _is_here(request: Request) -> bool:
    """Tell whether a person sits at this computer; a tunnel's strangers come by another name."""
    near = request.client is not None and request.client.host in LOOPBACK
    return near and request.url.hostname in LOOPBACK


def _whence(request: Request) -> str:
    return "here" if _is_here(request) else "elsewhere"
