"""How the pages are served: every option that Gradio would take from the environment, and what stands before it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

import gradio as gr
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount

from .access import Access
from .gate import OWNER_PAGE, Gate, Hosts, refuse
from .headers import SPACES, SafeHeaders
from .owner_routes import owner_routes
from .theme import ASSETS, theme

SCRIPTS = ("page.js", "live.js")


class Site(NamedTuple):
    """Whom the server lets in, by which names; the owner's page where it is not the one at the root; our routes."""

    access: Access
    hosts: Hosts
    owner: gr.Blocks | None
    routes: Sequence[BaseRoute] = ()  # of the pages, beside Gradio's own


def launch_options(host: str, port: int, *, share: bool, site: Site) -> dict[str, Any]:
    """Return the keyword arguments of Blocks.launch; nothing is left for an environment variable to decide."""
    return _common(host, port) | {
        "share": share,
        "inbrowser": False,
        "inline": False,
        "quiet": True,
        "debug": False,
        "prevent_thread_lock": True,
        "num_workers": 0,  # a forked server would outlive a killed app, and takes uploads on a port of its own
        "strict_cors": True,
        "state_session_capacity": 1000,
        "app_kwargs": _app_options(site, _common(host, port)),
    }


def _common(host: str, port: int) -> dict[str, Any]:
    """Return what holds for each page, the one at the root and the owner's below it."""
    return {
        "server_name": host,
        "server_port": port,
        "show_error": False,
        "root_path": "",
        "allowed_paths": [],
        "blocked_paths": [],
        "max_file_size": "1mb",
        "enable_monitoring": False,
        "mcp_server": False,
        "run_history": False,
        "ssr_mode": False,
        "pwa": False,
        "footer_links": [],
        "theme": theme(),
        "css_paths": [ASSETS / "page.css"],
        "head": "".join(f"<script>{(ASSETS / name).read_text('utf-8')}</script>" for name in SCRIPTS),
    }


def _app_options(site: Site, common: dict[str, Any]) -> dict[str, Any]:
    """Return what FastAPI is told: no pages about itself, the gate, our routes, and the owner's page."""
    options: dict[str, Any] = {
        "docs_url": None,
        "redoc_url": None,
        "openapi_url": None,
        # A KeyError is what Gradio has for an event that there is not; it would fill the terminal with tracebacks.
        "exception_handlers": {RequestValidationError: _not_understood, KeyError: _not_understood},
    }
    routes: list[BaseRoute] = [*owner_routes(site.access), *site.routes]
    lifespan = None
    if site.owner is not None:
        below = FastAPI(**options)
        gr.mount_gradio_app(below, site.owner, OWNER_PAGE, app_kwargs=dict(options), **common)
        routes += [route for route in below.routes if isinstance(route, Mount)]

        def lifespan(_app: FastAPI) -> AbstractAsyncContextManager[Any]:
            return below.router.lifespan_context(below)

    return options | {"middleware": _middleware(site), "routes": routes, "lifespan": lifespan}


async def _not_understood(_request: Request, _error: Exception) -> Response:
    """Answer what is no request of the page's; FastAPI would send all of it back."""
    return refuse(422, "This request cannot be understood.")


def _middleware(site: Site) -> list[Middleware]:
    framed_by = SPACES if "SPACE_ID" in os.environ else "'self'"
    return [Middleware(SafeHeaders, framed_by=framed_by), Middleware(Gate, access=site.access, hosts=site.hosts)]
