"""A stranger who knows Gradio's routes and speaks plain HTTP with them, without Gradio's own client."""

from __future__ import annotations

import json
from typing import Any

import httpx

PATIENCE = 60.0


class Guest:
    """One session with a page.

    Args:
        address: the page's, "http://127.0.0.1:7860/owner" for the owner's.
        headers: sent with every request.
    """

    def __init__(self, address: str, session: str = "a guest", **headers: str) -> None:
        self.session = session
        self.http = httpx.Client(base_url=address, headers=headers, timeout=PATIENCE, verify=False)  # no TLS here

    def events(self) -> list[dict[str, Any]]:
        """Return what the page's config says of its events."""
        events: list[dict[str, Any]] = self.http.get("/config").json()["dependencies"]
        return events

    def number(self, name: str) -> int:
        """Return the index of an event by its name."""
        return next(int(event["id"]) for event in self.events() if event["api_name"] == name)

    def post(self, path: str, number: int | None, data: list[Any], **more: Any) -> httpx.Response:
        body = {"data": data, "fn_index": number, "session_hash": self.session, **more}
        return self.http.post(path, json=body)

    def call(self, name: str, *data: Any) -> str:
        """Call an event past the queue, as the browser does with quick ones."""
        return self.post("/gradio_api/run/predict", self.number(name), list(data)).text

    def join(self, name: str | int, *data: Any, **more: Any) -> str:
        """Call an event through the queue, and return everything that the server streams of it."""
        number = self.number(name) if isinstance(name, str) else name
        answer = self.post("/gradio_api/queue/join", number, list(data), **more)
        return answer.text if answer.status_code != 200 else self.read()

    def read(self) -> str:
        """Read the session's stream until an event has ended."""
        said = ""
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                said += line + "\n"
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("msg") in ("process_completed", "unexpected_error", "close_stream"):
                    break
        return said
