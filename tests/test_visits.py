"""Who sees which chat: tabs, visitors, what vanishes and what stays."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import PATIENCE, until

from llamaforge import Generation, LlamaForge
from llamaforge_ui import visits
from llamaforge_ui.conversation import Conversation, Start
from llamaforge_ui.history import History
from llamaforge_ui.visits import Conversations, SessionEnded

LONG = "word " * 500


@pytest.fixture
def slow(echo: LlamaForge) -> Start:
    return lambda messages: echo.chat_stream(messages, {"tokens_per_second": 20})


@pytest.fixture
def say(echo: LlamaForge) -> Start:
    return echo.chat_stream


def told(conversation: Conversation, text: str, start: Start) -> Conversation:
    """Have a message answered in a chat."""
    generation = conversation.ask(text, start)
    assert generation.wait(PATIENCE)
    conversation.settle()
    return conversation


def key() -> str:
    return secrets.token_hex(16)


def test_two_sessions_have_two_conversations() -> None:
    conversations = Conversations()
    assert conversations.of("ada") is conversations.of("ada")
    assert conversations.of("ada") is not conversations.of("bob")


def test_a_reloaded_tab_finds_its_conversation_by_its_key() -> None:
    conversations, own = Conversations(), key()
    first = conversations.attach("before", own)
    conversations.leave("before")
    assert conversations.attach("after", own) is first
    assert conversations.of("after") is first


def test_a_tab_is_found_by_its_key_as_long_as_it_is_open() -> None:
    conversations, own = Conversations(), key()
    conversation = conversations.attach("a tab", own)
    assert conversations.of_tab(own, conversation.id) == (conversations.visit("a tab"), conversation)
    assert conversations.of_tab(key(), conversation.id) is None
    assert conversations.of_tab(own, "another chat") is None
    conversations.leave("a tab")
    assert conversations.of_tab(own, conversation.id) is None


def test_what_a_tab_did_before_it_opened_another_chat_brings_none_back(say: Start) -> None:
    conversations, own = Conversations(owner="owner"), key()
    first = told(conversations.attach("a tab", own), "Hello", say)
    second = conversations.new("a tab")
    assert conversations.still_shown("a tab", own, first.id) is None
    assert conversations.of("a tab") is second
    told(second, "And on", say)
    conversations.leave("a tab")
    assert conversations.still_shown("a tab", own, second.id) is not None  # it had only lost its connection


@pytest.mark.parametrize("guessed", ["", "1", "x" * 31])
def test_a_key_that_could_be_guessed_opens_nothing(guessed: str) -> None:
    conversations = Conversations()
    assert conversations.attach("ada", guessed) is not conversations.attach("bob", guessed)


def test_the_last_tab_that_leaves_stops_its_answer_and_keeps_its_words(slow: Start) -> None:
    conversations, own = Conversations(), key()
    conversation = conversations.attach("one", own)
    conversations.attach("two", own)
    generation = conversation.ask(LONG, slow)
    until(lambda: generation.text)
    conversations.leave("one")
    assert not generation.stopping
    conversations.leave("two")
    assert generation.stopping
    assert conversations.history.messages(conversation.id)[1].text == generation.text


def test_leaving_twice_or_unknown_does_nothing() -> None:
    conversations = Conversations()
    for session in ("never seen", "ada", "ada"):
        conversations.leave(session)
    assert conversations.of("ada").turns == []


def test_beyond_the_most_the_longest_idle_conversation_goes(slow: Start) -> None:
    conversations = Conversations(most=lambda: 3)
    running = conversations.of("running")
    running.ask(LONG, slow)
    others = [conversations.of(f"idle {number}") for number in range(3)]
    assert conversations.of("running") is running  # an answer that is being written keeps its place
    assert conversations.of("idle 2") is others[2]
    assert conversations.of("idle 0") is not others[0]
    running.stop()


# Visitors who are strangers to each other


def test_a_visitor_finds_no_chat_of_another_by_any_way(say: Start) -> None:
    conversations = Conversations()
    adas = told(conversations.attach("ada", key()), "Mine alone", say)
    conversations.attach("bob", key())
    assert conversations.open("bob", adas.id) is None
    assert conversations.find("bob", adas.id) is None
    assert not conversations.delete("bob", adas.id)
    assert not conversations.restore("bob", adas.id)
    assert conversations.listed(conversations.visit("bob")) == []
    assert conversations.every("bob") == []
    with pytest.raises(SessionEnded):
        conversations.shown("bob", conversations.visit("bob").key, adas.id)
    conversations.visit("bob").search = "alone"
    assert conversations.listed(conversations.visit("bob")) == []
    assert conversations.of("ada") is adas and len(adas.turns) == 2


def test_a_strangers_chats_vanish_an_hour_after_the_tab_was_closed(
    say: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversations, own = Conversations(), key()
    told(conversations.attach("ada", own), "Mine", say)
    told(conversations.new("ada"), "Mine too", say)
    conversations.leave("ada")
    conversations.attach("soon", own)
    assert len(conversations.every("soon")) == 2
    conversations.leave("soon")
    monkeypatch.setattr(visits, "KEPT_SECONDS", -1.0)
    conversations.attach("bob", key())
    conversations.attach("late", own)
    assert conversations.every("late") == []


def test_a_session_that_ended_says_so_and_begins_anew(say: Start) -> None:
    conversations, own = Conversations(), key()
    gone = told(conversations.attach("ada", own), "Mine", say)
    restarted = Conversations()
    with pytest.raises(SessionEnded, match="Your text is still in the box; press Send again."):
        restarted.shown("ada", own, gone.id)
    assert restarted.shown("ada", own, restarted.of("ada").id).turns == []


# The owner


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[History]:
    history = History(tmp_path / "chats.sqlite3")
    yield history
    history.close()


def test_the_owners_tabs_share_one_list(kept: History, say: Start) -> None:
    conversations = Conversations(kept, owner="owner")
    first = told(conversations.attach("one", key()), "Hello", say)
    conversations.attach("two", key())
    assert conversations.of("two") is not first
    assert [chat.title for chat in conversations.listed(conversations.visit("two"))] == ["Hello"]
    assert conversations.open("two", first.id) is first


def test_a_tab_that_stayed_open_over_a_restart_goes_on_in_its_chat(kept: History, say: Start) -> None:
    own = key()
    first = told(Conversations(kept, owner="owner").attach("tab", own), "Hello", say)
    restarted = Conversations(kept, owner="owner")
    found = restarted.shown("tab", own, first.id)
    assert [turn.text for turn in found.turns] == ["Hello", "Hello"]
    assert restarted.attach("reloaded", own) is found


def test_a_message_goes_into_the_chat_that_its_tab_shows(kept: History, say: Start) -> None:
    """A duplicated tab has the same key, and may show another chat."""
    conversations, own = Conversations(kept, owner="owner"), key()
    first = told(conversations.attach("one", own), "First", say)
    second = told(conversations.new("one"), "Second", say)
    assert conversations.shown("one", own, first.id) is first
    assert conversations.shown("one", own, second.id) is second


def test_another_chat_is_opened_in_place_and_the_running_answer_stops(kept: History, slow: Start, say: Start) -> None:
    conversations = Conversations(kept, owner="owner")
    first = told(conversations.attach("tab", key()), "First", say)
    second = conversations.new("tab")
    generation = second.ask(LONG, slow)
    assert conversations.open("tab", first.id) is first
    assert generation.stopping
    assert conversations.of("tab") is first


def test_a_temporary_chat_is_in_no_list_and_in_no_file(kept: History, say: Start) -> None:
    conversations = Conversations(kept, owner="owner")
    conversations.attach("tab", key())
    temporary = told(conversations.new("tab", temporary=True), "Secret", say)
    assert conversations.is_temporary(temporary)
    assert conversations.listed(conversations.visit("tab")) == []
    assert kept.search("owner", "Secret") == []
    assert conversations.of("tab") is temporary


def test_a_deleted_chat_comes_back_by_undo(kept: History, say: Start) -> None:
    conversations = Conversations(kept, owner="owner")
    chat = told(conversations.attach("tab", key()), "Hello", say)
    assert conversations.delete("tab", chat.id)
    assert conversations.of("tab") is not chat
    assert conversations.listed(conversations.visit("tab")) == []
    assert conversations.restore("tab", chat.id)
    found = conversations.open("tab", chat.id)
    assert found is not None and [turn.text for turn in found.turns] == ["Hello", "Hello"]


def test_the_end_of_the_program_keeps_what_is_being_written(tmp_path: Path, slow: Start) -> None:
    conversations = Conversations(History(tmp_path / "chats.sqlite3"), owner="owner")
    conversation = conversations.attach("tab", key())
    generation: Generation = conversation.ask(LONG, slow)
    until(lambda: generation.text)
    conversations.close()
    history = History(tmp_path / "chats.sqlite3")
    kept_text = history.messages(conversation.id)[1].text
    assert kept_text and kept_text == generation.text
    history.close()


# Strangers in numbers


def test_one_guest_who_begins_chat_after_chat_takes_nothing_from_another(say: Start) -> None:
    conversations = Conversations(most=lambda: 10)
    adas = told(conversations.attach("ada", key()), "Mine", say)
    conversations.attach("eve", key())
    for _ in range(50):
        conversations.new("eve")
    for number in range(visits.CHATS_A_VISITOR + 10):
        told(conversations.new("eve"), f"word {number}", say)
    assert conversations.of("ada") is adas
    assert len(adas.turns) == 2 and conversations.history.messages(adas.id)
    assert len(conversations.every("eve")) <= visits.CHATS_A_VISITOR + 1


def test_many_keys_from_one_session_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    conversations = Conversations()
    for _ in range(300):
        conversations.attach("eve", key())
    conversations.leave("eve")
    monkeypatch.setattr(visits, "KEPT_SECONDS", -1.0)
    conversations.attach("ada", key())
    assert (len(conversations._left), len(conversations._here), len(conversations._visits)) == (0, 1, 1)
    assert len(conversations.history._read("SELECT * FROM tabs")) == 1


def test_a_crowd_ends_no_answer_and_no_visit_that_is_used(slow: Start) -> None:
    conversations = Conversations(most=lambda: 4)
    generation = conversations.attach("ada", key()).ask(LONG, slow)
    used = conversations.attach("bob", key())
    for number in range(60):
        conversations.attach(f"stranger {number}", key())
        conversations.of("bob")
    assert not generation.stopping
    assert conversations.visit("bob").arrived and used.visitor == conversations.visit("bob").visitor
    generation.stop()


def test_a_chat_that_was_deleted_in_another_window_takes_no_message(kept: History, say: Start) -> None:
    conversations, own = Conversations(kept, owner="owner"), key()
    chat = told(conversations.attach("one", own), "Hello", say)
    conversations.attach("two", key())
    conversations.delete("two", chat.id)
    with pytest.raises(SessionEnded, match="deleted in another window"):
        conversations.shown("one", own, chat.id)
