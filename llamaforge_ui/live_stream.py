"""The answer being written, sent to its own tab beside Gradio's events: only what has changed, on one small stream.

An event of Gradio's costs the server and the browser more the more messages the page shows (PR #6267 there would have
changed that); a line of this stream costs what it says. live.js asks for it as soon as a message is sent, draws it
with Gradio's own Markdown, and tells chat_tab.py at its end; where the stream breaks, that draws the rest by events.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from .conversation import Begun, Conversation
from .gate import OWNER_PAGE, refuse
from .live_turn import POLL, Frame, frames, live_status, live_text
from .page import Page
from .plain_text import harmless

BEGIN_PATIENCE = 5.0  # seconds for an answer to begin: a stream is asked for together with it
Id = Annotated[str, Field(max_length=64)]


class Asked(BaseModel):
    """What live.js asks for: the answer after the one that the tab has drawn, in the chat that it shows."""

    key: Id  # of the tab
    chat: Id
    drawn: int


def live_routes(page: Page) -> list[Route]:
    """Return the route of a page's live answers; it asks for the page's role, and for the tab's own key."""

    @page.access.route(page.role)
    async def live(request: Request) -> Response:
        try:
            asked = Asked.model_validate_json(await request.body())
        except ValidationError:
            return refuse(422, "This request cannot be understood.")
        # The type that proxies pass on at once.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(page, asked), media_type="text/event-stream", headers=headers)

    below = OWNER_PAGE if page.for_owner and not page.access.local else ""
    return [Route(f"{below}/live", live, methods=["POST"])]


async def _events(page: Page, asked: Asked) -> AsyncIterator[str]:
    yield ": here\n\n"
    found = page.conversations.of_tab(asked.key, asked.chat)
    if found is None:
        return
    visit, conversation = found
    visit.stream = mine = object()  # a tab reads one stream: the last one that it asked for

    def wanted() -> bool:
        return visit.stream is mine and visit.chat == conversation.id

    begun = await _begun(conversation, asked.drawn, wanted)
    if begun is None:
        return
    async for change in changes(page, conversation, begun):
        if not wanted():
            return
        yield f"data: {json.dumps(change)}\n\n"


async def _begun(conversation: Conversation, drawn: int, wanted: Callable[[], bool]) -> Begun | None:
    """Wait for an answer that is not drawn yet; None where none begins, or nobody wants it any more."""
    end = time.monotonic() + BEGIN_PATIENCE
    while (begun := conversation.begun) is None or begun.number <= drawn:
        if time.monotonic() > end or not wanted():
            return None
        await asyncio.sleep(POLL)
    return begun


async def changes(page: Page, conversation: Conversation, begun: Begun) -> AsyncIterator[dict[str, str | int]]:
    """Yield how what is shown of an answer changes, its words kept before they are shown.

    A change takes `cut` UTF-16 units, which JavaScript counts in, off the end of the text and puts `add` there.
    """
    text = ""
    if begun.asked:
        yield change("", "") | {"asked": harmless(begun.asked), "status": ""}
    async for frame in frames(page.forge, begun.generation, notes=page.for_owner):
        await asyncio.to_thread(conversation.journal, begun.generation, frame.text, frame.reasoning)
        shown = live_text(frame, begun.earlier)
        yield change(text, shown) | {"status": live_status(frame)}
        text = shown
    last = Frame(begun.generation.text, begun.generation.reasoning, "")
    yield change(text, live_text(last, begun.earlier)) | {"status": ""}


def change(before: str, after: str) -> dict[str, str | int]:
    """Return what makes one text another: mostly something is added, and a joiner may come between the last words."""
    keep = len(before) if after.startswith(before) else _common(before, after)
    return {"cut": len(before[keep:].encode("utf-16-le", "surrogatepass")) // 2, "add": after[keep:]}


def _common(one: str, other: str) -> int:
    """Return the length of the common beginning, by halves: slices are compared much faster than characters."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low
