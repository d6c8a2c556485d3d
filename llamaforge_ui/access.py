"""Owner and guest: how the app was started and the owner's cookie decide, and every handler asks; an IP never does."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import gradio as gr
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from llamaforge import LlamaForgeError

from .convert import sentence_for
from .login import OwnerLogin

Role = Literal["owner", "guest"]
Handler = TypeVar("Handler", bound=Callable[..., Any])
Endpoint = Callable[[Request], Awaitable[Response]]

COOKIE = "lf_owner"
OWNER_ONLY = "Only the owner can do this."
LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Set on hosted notebooks and Spaces, where an address that looks local is served to the world.
HOSTED = ("SPACE_ID", "COLAB_RELEASE_TAG", "COLAB_GPU", "KAGGLE_KERNEL_RUN_TYPE", "DATABRICKS_RUNTIME_VERSION")


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what in this run of the app.

    Args:
        public: whether others than the person at this computer can reach the page.
        login: how the owner logs in; None where nobody needs to, or, in public, where nobody can.
    """

    public: bool
    login: OwnerLogin | None = None

    @property
    def local(self) -> bool:
        """Whether every visitor is the owner, without logging in."""
        return not self.public and self.login is None

    def role(self, request: gr.Request | Request | None) -> Role:
        """Return the visitor's role, looked up anew on each call."""
        if request is None:
            return "guest"
        if self.local:
            return "owner"
        return "owner" if self.login is not None and self.login.knows(token_of(request)) else "guest"

    def handler(self, role: Role) -> Callable[[Handler], Handler]:
        """Declare who may call an event handler; it is asked on each call, and errors become sentences on the page.

        The handler must take `request: gr.Request` and be a plain function or an async generator.
        """

        def decorate(fn: Handler) -> Handler:
            if inspect.iscoroutinefunction(fn) or inspect.isgeneratorfunction(fn):
                raise TypeError(f"{fn.__name__} must be a plain function or an async generator.")
            if "request" not in inspect.signature(fn).parameters:
                raise TypeError(f"{fn.__name__} must take request: gr.Request.")
            guarded = self._guard_stream(fn, role) if inspect.isasyncgenfunction(fn) else self._guard(fn, role)
            guarded.role = role  # type: ignore[attr-defined]
            return cast(Handler, guarded)

        return decorate

    def route(self, role: Role) -> Callable[[Endpoint], Endpoint]:
        """Declare who may call a route of our own; as handler(), for what is no event of Gradio's."""

        def decorate(endpoint: Endpoint) -> Endpoint:
            @functools.wraps(endpoint)
            async def guarded(request: Request) -> Response:
                if role == "owner" and self.role(request) != "owner":
                    return JSONResponse({"error": OWNER_ONLY}, 403)
                return await endpoint(request)

            guarded.role = role  # type: ignore[attr-defined]
            return guarded

        return decorate

    def _guard(self, fn: Callable[..., Any], role: Role) -> Callable[..., Any]:
        @functools.wraps(fn)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            found = self._require(role, args, kwargs)
            try:
                return fn(*args, **kwargs)
            except LlamaForgeError as error:
                raise gr.Error(sentence_for(found, error), print_exception=False) from error

        return guarded

    def _guard_stream(self, fn: Callable[..., Any], role: Role) -> Callable[..., Any]:
        @functools.wraps(fn)
        async def guarded(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            found, drawn = self._require(role, args, kwargs), False
            try:
                async with aclosing(fn(*args, **kwargs)) as stream:
                    async for update in stream:
                        drawn = True
                        yield update
            except LlamaForgeError as error:
                raise gr.Error(sentence_for(found, error), print_exception=False) from error
            if not drawn:
                yield gr.skip()  # Gradio empties all outputs of a stream that ends without having said anything

        return guarded

    def _require(self, role: Role, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Role:
        """Return the visitor's role where it may call a handler of `role`."""
        request = next((value for value in (*args, *kwargs.values()) if isinstance(value, gr.Request)), None)
        found = self.role(request)
        if role == "owner" and found != "owner":
            raise gr.Error(OWNER_ONLY, print_exception=False)
        return found


def is_public(host: str, share: bool) -> bool:
    """Tell whether others can reach the page: only where everything says that they cannot, it is local."""
    return host not in LOOPBACK or share or any(name in os.environ for name in HOSTED)


def token_of(request: gr.Request | Request) -> str | None:
    """Return what the owner's cookie holds."""
    plain = request.request if isinstance(request, gr.Request) else request
    return plain.cookies.get(COOKIE) if plain is not None else None
