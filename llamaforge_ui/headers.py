"""What every answer of the server tells the browser: load nothing from elsewhere, whatever a model has written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.datastructures import MutableHeaders

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Gradio's own page needs inline scripts, eval and inline styles; nothing needs another host.
POLICY = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' blob:",
    "font-src": "'self' data:",
    "connect-src": "'self'",
    "worker-src": "'self' blob:",
    "frame-src": "'none'",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
}
SPACES = "https://huggingface.co https://*.hf.space"


class SafeHeaders:
    """Adds the security headers to every HTTP answer.

    Args:
        framed_by: the sites that may show the page in a frame.
    """

    def __init__(self, app: ASGIApp, framed_by: str = "'self'") -> None:
        self._app = app
        policy = POLICY | {"frame-ancestors": framed_by}
        self._headers = {
            "Content-Security-Policy": "; ".join(f"{name} {sources}" for name, sources in policy.items()),
            "X-Content-Type-Options": "nosniff",
            # Not no-referrer: with that, the browser sends the login with the origin "null".
            "Referrer-Policy": "same-origin",
            "X-DNS-Prefetch-Control": "off",  # else the name of a linked host may be looked up before any click
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                if headers.get("content-type", "").startswith("text/html"):
                    headers["Cache-Control"] = "no-store"  # nobody finds the owner's page by going back after a logout
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
