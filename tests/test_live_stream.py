"""The stream of the answer being written: small changes that make up the text, kept before they are shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import PATIENCE, until
from starlette.applications import Starlette

from llamaforge import LlamaForge
from llamaforge_ui import Access, live_stream
from llamaforge_ui.conversation import Conversation
from llamaforge_ui.guests import Guests
from llamaforge_ui.live_stream import Asked, change, changes, live_routes
from llamaforge_ui.page import Page
from llamaforge_ui.visits import Conversations

KEY = "k" * 32


@pytest.fixture
def page(echo: LlamaForge) -> Iterator[Page]:
    conversations = Conversations(owner="owner")
    yield Page(echo, Access(public=False), Guests(echo), "owner", conversations)
    conversations.close()


def begin(page: Page, text: str, speed: float = 200) -> Conversation:
    """Open a tab and have a message answered in its chat."""
    conversation = page.conversations.attach("a tab", KEY)
    conversation.ask(text, lambda messages: page.forge.chat_stream(messages, {"tokens_per_second": speed}))
    return conversation


def applied(text: str, cut: int, add: str) -> str:
    """Do what live.js does: JavaScript counts UTF-16 units."""
    units = text.encode("utf-16-le", "surrogatepass")
    return units[: len(units) - 2 * cut].decode("utf-16-le", "surrogatepass") + add


def drawn(page: Page, conversation: Conversation, at_each: Callable[[str], object] = lambda text: None) -> list[str]:
    """Return every text that a page draws of a chat's last answer; `at_each` sees it first."""
    assert conversation.begun is not None

    async def collect() -> list[str]:
        texts = [""]
        async for one in changes(page, conversation, conversation.begun):
            texts.append(applied(texts[-1], one["cut"], one["add"]))
            at_each(texts[-1])
        return texts[1:]

    return asyncio.run(asyncio.wait_for(collect(), PATIENCE))


@given(st.text(), st.text(), st.text())
def test_a_change_makes_one_text_another(same: str, before: str, after: str) -> None:
    one = change(same + before, same + after)
    assert applied(same + before, one["cut"], one["add"]) == same + after


def test_a_text_that_grew_costs_what_it_grew_by() -> None:
    assert change("a llama 🦙 " * 1000, "a llama 🦙 " * 1000 + "and") == {"cut": 0, "add": "and"}


def test_what_is_taken_away_is_counted_as_javascript_counts() -> None:
    assert change("a 🦙", "a b") == {"cut": 2, "add": "b"}


def test_the_changes_make_up_the_whole_answer(page: Page) -> None:
    said = "one two **three** <b>four</b> " * 20
    conversation = begin(page, said)
    texts = drawn(page, conversation)
    assert len(texts) > 3
    assert texts[-1].replace("\u2060", "") == conversation.turns[-1].text


def test_a_long_answer_sends_every_word_once(page: Page) -> None:
    conversation = begin(page, "word " * 4000, speed=4000)
    assert conversation.begun is not None
    begun = conversation.begun

    async def sent() -> int:
        return sum([len(str(one["add"])) async for one in changes(page, conversation, begun)])

    assert asyncio.run(asyncio.wait_for(sent(), PATIENCE)) == len(begun.generation.text)


def test_words_are_kept_before_they_are_drawn(page: Page) -> None:
    conversation = begin(page, "word " * 60)

    def is_kept(text: str) -> None:
        turn = conversation.turns[-1]
        if turn.generation is not None and turn.generation.result is None:
            assert turn.journaled[0] >= len(text)

    assert drawn(page, conversation, is_kept)


def test_an_answer_that_has_ended_is_drawn_whole(page: Page) -> None:
    conversation = begin(page, "Hello")
    until(lambda: conversation.running is None)
    assert drawn(page, conversation) == ["Hello"]


def events(page: Page, **asked: Any) -> list[dict[str, Any]]:
    """Ask for a stream over HTTP and return what it says."""

    async def read() -> list[dict[str, Any]]:
        transport = httpx.ASGITransport(app=Starlette(routes=live_routes(page)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post("/live", json=asked, timeout=PATIENCE)
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [json.loads(line[6:]) for line in answer.text.split("\n\n") if line.startswith("data: ")]

    return asyncio.run(read())


def test_a_tab_reads_the_answer_of_the_chat_that_it_shows(page: Page) -> None:
    conversation = begin(page, "Hello")
    assert "".join(event["add"] for event in events(page, key=KEY, chat=conversation.id, drawn=0)) == "Hello"


@pytest.mark.parametrize("other", [{"key": "x" * 32}, {"chat": "another"}])
def test_nobody_reads_an_answer_by_another_key_or_of_another_chat(page: Page, other: dict[str, str]) -> None:
    conversation = begin(page, "Hello")
    assert events(page, **({"key": KEY, "chat": conversation.id, "drawn": 0} | other)) == []


def test_a_stream_waits_for_an_answer_that_is_not_drawn_yet(page: Page) -> None:
    conversation = begin(page, "first")
    until(lambda: conversation.running is None)

    async def second() -> list[str]:
        assert conversation.begun is not None
        waiting = asyncio.ensure_future(live_stream._begun(conversation, conversation.begun.number, lambda: True))
        await asyncio.sleep(0)
        assert not waiting.done()
        conversation.ask("second", page.forge.chat_stream)
        begun = await asyncio.wait_for(waiting, PATIENCE)
        assert begun is not None
        return [str(one["add"]) async for one in changes(page, conversation, begun)]

    assert "".join(asyncio.run(second())) == "second"


def test_a_stream_ends_where_no_answer_begins(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_stream, "BEGIN_PATIENCE", 0.01)
    conversation = page.conversations.attach("a tab", KEY)
    assert events(page, key=KEY, chat=conversation.id, drawn=0) == []


def test_a_stream_ends_where_the_tab_opens_another_chat(page: Page) -> None:
    conversation = begin(page, "word " * 400, speed=20)
    assert conversation.begun is not None
    generation = conversation.begun.generation
    until(lambda: generation.text)
    page.conversations.new("a tab")
    assert events(page, key=KEY, chat=conversation.id, drawn=0) == []


def test_a_tab_reads_one_stream_the_last_one_that_it_asked_for(page: Page) -> None:
    conversation = begin(page, "word " * 400, speed=20)
    first = live_stream._events(page, Asked(key=KEY, chat=conversation.id, drawn=0))

    async def read() -> list[str]:
        said = [await anext(first), await anext(first)]
        second = live_stream._events(page, Asked(key=KEY, chat=conversation.id, drawn=0))
        said += [await anext(second), await anext(second)]
        said += [event async for event in first]
        await second.aclose()
        return said

    assert len(asyncio.run(asyncio.wait_for(read(), PATIENCE))) == 4


def test_what_is_no_request_is_refused_in_a_sentence(page: Page) -> None:
    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(app=Starlette(routes=live_routes(page)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/live", content=b'{"key": 1}')

    answer = asyncio.run(post())
    assert (answer.status_code, answer.json()["error"]) == (422, "This request cannot be understood.")


def test_the_owners_stream_is_below_the_owners_page_where_guests_have_one_too(tmp_path: Path) -> None:
    forge, access = LlamaForge(tmp_path), Access(public=True)
    paths = [live_routes(Page(forge, access, Guests(forge), role))[0].path for role in ("guest", "owner")]
    assert paths == ["/live", "/owner/live"]
