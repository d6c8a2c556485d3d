"""Owner and guest: how the app was started decides, and every handler asks. An IP says nothing: a tunnel's is ours."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import gradio as gr

from llamaforge import LlamaForgeError

Role = Literal["owner", "guest"]
Handler = TypeVar("Handler", bound=Callable[..., Any])

LOOPBACK = ("127.0.0.1", "::1", "localhost")
# Set on hosted notebooks and Spaces, where an address that looks local is served to the world.
HOSTED = ("SPACE_ID", "COLAB_RELEASE_TAG", "COLAB_GPU", "KAGGLE_KERNEL_RUN_TYPE", "DATABRICKS_RUNTIME_VERSION")


@dataclass(frozen=True, slots=True)
class Access:
    """Who may do what in this run of the app; `local` means that every visitor is the owner."""

    local: bool

    @classmethod
    def decide(cls, host: str, share: bool) -> Access:
        """Local only where nothing suggests otherwise; unknown is public."""
        return cls(local=host in LOOPBACK and not share and not any(name in os.environ for name in HOSTED))

    def role(self, request: gr.Request | None) -> Role:
        """Return the visitor's role, looked up anew on each call."""
        return "owner" if self.local and request is not None else "guest"

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

    def _guard(self, fn: Callable[..., Any], role: Role) -> Callable[..., Any]:
        @functools.wraps(fn)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            self._require(role, args, kwargs)
            try:
                return fn(*args, **kwargs)
            except LlamaForgeError as error:
                raise gr.Error(str(error), print_exception=False) from error

        return guarded

    def _guard_stream(self, fn: Callable[..., Any], role: Role) -> Callable[..., Any]:
        @functools.wraps(fn)
        async def guarded(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            self._require(role, args, kwargs)
            try:
                async with aclosing(fn(*args, **kwargs)) as stream:
                    async for update in stream:
                        yield update
            except LlamaForgeError as error:
                raise gr.Error(str(error), print_exception=False) from error

        return guarded

    def _require(self, role: Role, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        request = next((value for value in (*args, *kwargs.values()) if isinstance(value, gr.Request)), None)
        if role == "owner" and self.role(request) != "owner":
            raise gr.Error("Only the owner can do this.", print_exception=False)
