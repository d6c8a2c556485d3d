"""Chats as files: what goes out comes in again, and what others wrote is read as far as it is understood."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import PATIENCE

from llamaforge import LlamaForge, LlamaForgeError, Message
from llamaforge_ui import transfer
from llamaforge_ui.conversation import Conversation
from llamaforge_ui.history import History
from llamaforge_ui.pictures import clean_picture, thumbnail
from llamaforge_ui.transfer import CannotImport, as_json, as_markdown, file_name, read_chats

MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {}}]},
]
SHAREGPT = [
    {"from": "system", "value": "Be short."},
    {"from": "human", "value": "Hello"},
    {"from": "gpt", "value": "Hi"},
]


def a_chat(tmp_path: Path) -> Conversation:
    """A chat with two versions of its first message, a title, a picture, and the second version shown."""
    forge = LlamaForge(tmp_path)
    forge.add_model("echo", "echo", "echo")
    forge.load_model("echo")
    conversation = Conversation(visitor="ada")
    conversation.system_prompt = "Be short."
    picture = clean_picture(PIXEL)
    start = lambda messages: forge.chat_stream([Message("user", messages[-1].content)])  # noqa: E731 - echo is blind
    for begin in (
        lambda: conversation.ask("Hello", start, [picture], [thumbnail(picture)]),
        lambda: conversation.edit(0, "Good evening", start),
    ):
        generation = begin()
        assert generation is not None and generation.wait(PATIENCE)
        conversation.settle()
    conversation.rename("A title")
    forge.unload_model()
    return conversation


PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def added(text: str) -> list[Conversation]:
    """Read chats in and return them as they are opened."""
    history = History()
    for one in read_chats(text):
        history.add_tree("bob", one.chat, one.messages)
    records = [history.chat("bob", found.id) for found in reversed(history.chats("bob"))]
    return [Conversation(history, "bob", record) for record in records]


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in conversation.turns]


def test_markdown_has_the_title_and_what_was_said(tmp_path: Path) -> None:
    assert as_markdown(a_chat(tmp_path)) == "# A title\n\n**You**\n\nGood evening\n\n**echo**\n\nGood evening\n"


def test_json_comes_in_again_as_it_went_out(tmp_path: Path) -> None:
    before = a_chat(tmp_path)
    (after,) = added(as_json([before]))
    assert said(after) == said(before)
    assert (after.title, after.system_prompt) == (before.title, before.system_prompt)
    assert after.versions(after.turns[0]) == (2, 2)
    assert after.turns[1].model == "echo"
    assert after.turns[1].result is not None and after.turns[1].result.finish_reason == "stop"
    assert [image.media_type for image in after.history.images(after.turns[0].id)] == ["image/jpeg"]
    assert after.turns[0].about["thumbnails"]


@pytest.mark.parametrize(
    "value",
    [
        MESSAGES,
        {"messages": MESSAGES},
        [{"messages": MESSAGES}],
        [MESSAGES],
        {"conversations": SHAREGPT},
        [{"id": "x", "conversations": SHAREGPT}],
    ],
    ids=["messages", "OpenAI", "OpenAI's list", "lists", "ShareGPT", "ShareGPT's list"],
)
def test_message_lists_of_others_are_read(value: Any) -> None:
    (chat,) = added(json.dumps(value))
    assert said(chat) == [("user", "Hello"), ("assistant", "Hi")]
    assert (chat.title, chat.system_prompt) == ("Hello", "Be short.")


def test_what_tools_said_and_what_is_empty_is_left_out() -> None:
    more = [*MESSAGES, {"role": "tool", "content": "42"}, {"role": "assistant", "content": None}]
    (chat,) = added(json.dumps(more))
    assert len(chat.turns) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        "42",
        "[1, 2]",
        '{"messages": []}',
        '{"messages": [{"content": "no role"}]}',
        '{"messages": "Hello"}',
        '{"conversations": [{"value": "nobody"}]}',
        '{"llamaforge": 1, "chats": [{"messages": [{"id": "x"}]}]}',
        '{"llamaforge": 2, "chats": []}',
        '{"llamaforge": 1, "chats": 5}',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"llamaforge": 1, "chats": [{"messages": [{"id": 1, "role": "user", "images": ["bm8gcGljdHVyZQ=="]}]}]}',
    ],
    ids=lambda text: text[:40],
)
def test_what_is_not_understood_is_a_sentence(text: str) -> None:
    with pytest.raises(LlamaForgeError):
        read_chats(text)


def test_a_file_that_is_too_large_is_not_even_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "LARGEST_FILE", 100)
    with pytest.raises(CannotImport, match="too large"):
        read_chats(json.dumps(MESSAGES * 10))


def test_a_parent_that_is_no_earlier_message_begins_a_branch() -> None:
    looped = [{"id": 1, "parent": 2, "role": "user", "text": "a"}, {"id": 2, "parent": 2, "role": "user", "text": "b"}]
    (chat,) = added(json.dumps({"llamaforge": 1, "chats": [{"messages": looped, "leaf": 9}]}))
    assert said(chat) == [("user", "b")]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["role", "messages", "from", "chats", "llamaforge"]), inner)
        ),
    )
)
def test_any_json_is_read_or_refused(value: Any) -> None:
    try:
        added(json.dumps(value))
    except CannotImport as refused:
        assert str(refused).endswith(".")


@pytest.mark.parametrize(
    ("title", "name"),
    [("A title", "A-title"), ("../../etc/passwd", "etc-passwd"), ("日本語", "日本語"), ("<>", "chat"), ("", "chat")],
)
def test_a_file_has_a_name_that_every_system_takes(title: str, name: str) -> None:
    assert file_name(title, "md").startswith(f"{name}-2")
    assert file_name(title, "md").endswith(".md")


def test_a_guest_takes_away_what_was_said_and_nothing_of_the_owners(tmp_path: Path) -> None:
    conversation = a_chat(tmp_path)
    conversation.system_prompt = "The owner's words"
    conversation.turns[-1].about |= {"settings": {"seed": 4711}, "error": "/a/path of the owner's"}
    conversation.history.finish(conversation.turns[-1].record())
    mine, guests = as_json([conversation]), as_json([conversation], "guest")
    for secret in ("The owner's words", "4711", "/a/path"):
        assert secret in mine and secret not in guests
    (after,) = added(guests)
    assert said(after) == said(conversation)


@pytest.mark.parametrize("number", ["1e999", "-1", "true", '"x"', "[1]"])
def test_what_is_no_amount_is_not_taken_for_one(number: str) -> None:
    about = f'{{"time_to_first_token": {number}, "usage": {{"prompt_tokens": {number}}}, "finish_reason": "stop"}}'
    message = f'{{"id": 1, "role": "assistant", "text": "Hi", "about": {about}}}'
    try:
        (chat,) = added(f'{{"llamaforge": 1, "chats": [{{"messages": [{message}]}}]}}')
    except CannotImport:
        return  # no JSON at all
    result = chat.turns[0].result
    assert result is not None and result.time_to_first_token is None and result.usage is None
