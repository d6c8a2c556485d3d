"""Conversations on the server: turns, what the model is given, and who sees which."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import PATIENCE, until

from llamaforge import EmptyPrompt, Generation, LlamaForge, Message, NoModelLoaded
from llamaforge_ui.conversation import AnswerRunning, Conversation, Conversations, Start

LONG = "word " * 500


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[LlamaForge]:
    forge = LlamaForge(tmp_path)
    forge.add_model("echo", "echo", "echo")
    forge.load_model("echo")
    yield forge
    forge.unload_model()


@pytest.fixture
def fast(echo: LlamaForge) -> Start:
    return echo.chat_stream


@pytest.fixture
def slow(echo: LlamaForge) -> Start:
    return lambda messages: echo.chat_stream(messages, {"tokens_per_second": 20})


def answered(generation: Generation | None) -> Generation:
    assert generation is not None
    assert generation.wait(PATIENCE) is not None
    return generation


def texts(conversation: Conversation) -> list[tuple[str, str]]:
    return [(turn.role, turn.text) for turn in conversation.turns]


def test_a_message_and_its_answer_are_two_turns(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("Hello you", fast, "echo"))
    assert texts(conversation) == [("user", "Hello you"), ("assistant", "Hello you")]
    assert conversation.turns[1].model == "echo"
    assert conversation.turns[1].result is not None


def test_the_model_is_given_system_prompt_and_all_turns(echo: LlamaForge) -> None:
    conversation = Conversation(system_prompt="Be short.")
    given: list[list[Message]] = []

    def start(messages: list[Message]) -> Generation:
        given.append(list(messages))
        return echo.chat_stream(messages)

    for text in ("One", "Two"):
        answered(conversation.ask(text, start, "echo"))
    one = [Message("system", "Be short."), Message("user", "One")]
    assert given == [one, [*one, Message("assistant", "One"), Message("user", "Two")]]


def test_a_blank_system_prompt_is_not_sent() -> None:
    assert Conversation(system_prompt=" \n").messages() == []


def test_a_growing_answer_is_read_as_it_grows(slow: Start) -> None:
    conversation = Conversation()
    generation = conversation.ask(LONG, slow, "echo")
    until(lambda: generation.text)
    assert conversation.turns[1].text.startswith("word")
    assert conversation.running is generation
    conversation.stop()


def test_while_an_answer_is_written_nothing_else_may_begin(slow: Start) -> None:
    conversation = Conversation()
    conversation.ask(LONG, slow, "echo")
    for act in (
        lambda: conversation.ask("Me too", slow, "echo"),
        lambda: conversation.regenerate(slow, "echo"),
        lambda: conversation.edit(0, "Other", slow, "echo"),
        conversation.undo,
    ):
        with pytest.raises(AnswerRunning, match="still being written"):
            act()
    assert len(conversation.turns) == 2
    conversation.stop()


def test_a_second_click_on_send_is_known(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("Hello", fast, "echo"))
    assert conversation.asked_just_now("Hello")
    assert not conversation.asked_just_now("Hello again")


def test_stop_keeps_what_is_written_and_frees_the_chat(slow: Start) -> None:
    conversation = Conversation()
    generation = conversation.ask(LONG, slow, "echo")
    until(lambda: generation.text)
    conversation.stop()
    assert conversation.running is None
    answered(generation)
    assert generation.result is not None and generation.result.finish_reason == "cancelled"
    assert texts(conversation)[1][1].startswith("word")


def test_stop_without_an_answer_does_nothing() -> None:
    conversation = Conversation()
    conversation.stop()
    assert conversation.turns == []


def test_where_an_answer_cannot_begin_the_chat_is_as_before(echo: LlamaForge, fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("Hello", fast, "echo"))
    before = texts(conversation)
    echo.unload_model()
    with pytest.raises(NoModelLoaded):
        conversation.ask("And now?", fast, "echo")
    with pytest.raises(NoModelLoaded):
        conversation.regenerate(fast, "echo")
    with pytest.raises(NoModelLoaded):
        conversation.edit(0, "Other", fast, "echo")
    assert texts(conversation) == before


def test_regenerate_replaces_the_last_answer_only(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast, "echo"))
    answered(conversation.ask("Two", fast, "echo"))
    old = conversation.turns[3].generation
    new = answered(conversation.regenerate(fast, "other"))
    assert new is not old
    assert texts(conversation) == [("user", "One"), ("assistant", "One"), ("user", "Two"), ("assistant", "Two")]
    assert conversation.turns[3].model == "other"


def test_regenerate_answers_a_message_that_has_no_answer(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast, "echo"))
    conversation.turns.pop()
    answered(conversation.regenerate(fast, "echo"))
    assert texts(conversation) == [("user", "One"), ("assistant", "One")]


def test_an_empty_chat_has_nothing_to_regenerate_or_undo(fast: Start) -> None:
    conversation = Conversation()
    assert conversation.regenerate(fast, "echo") is None
    assert conversation.undo() == ""


def test_editing_a_message_answers_it_anew_and_drops_what_followed(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast, "echo"))
    answered(conversation.ask("Two", fast, "echo"))
    answered(conversation.edit(0, "Other", fast, "echo"))
    assert texts(conversation) == [("user", "Other"), ("assistant", "Other")]


def test_editing_an_answer_keeps_what_followed(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast, "echo"))
    answered(conversation.ask("Two", fast, "echo"))
    assert conversation.edit(1, "Better", fast, "echo") is None
    assert texts(conversation)[1:3] == [("assistant", "Better"), ("user", "Two")]


@pytest.mark.parametrize("index", [-1, 2, 99])
def test_editing_a_turn_that_is_not_there_changes_nothing(fast: Start, index: int) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast, "echo"))
    assert conversation.edit(index, "Other", fast, "echo") is None
    assert texts(conversation) == [("user", "One"), ("assistant", "One")]


def test_undo_returns_the_message_and_takes_it_and_its_answer_away(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast, "echo"))
    answered(conversation.ask("Two", fast, "echo"))
    assert conversation.undo() == "Two"
    assert texts(conversation) == [("user", "One"), ("assistant", "One")]
    answered(conversation.ask("Two", fast, "echo"))
    assert len(conversation.turns) == 4


def test_a_message_that_failed_at_once_is_given_back(echo: LlamaForge) -> None:
    conversation = Conversation()
    generation = conversation.ask("Hello", lambda messages: failing(echo), "echo")
    answered(generation)
    assert conversation.forget_failed() == "Hello"
    assert conversation.turns == []


@pytest.mark.parametrize(
    ("act", "given_back"),
    [
        (lambda conversation, start: conversation.ask("Three", start, "echo"), "Three"),
        (lambda conversation, start: conversation.edit(0, "Other", start, "echo"), "Other"),
        (lambda conversation, start: conversation.regenerate(start, "echo"), ""),
    ],
    ids=["ask", "edit", "regenerate"],
)
def test_an_answer_that_fails_before_its_first_word_takes_nothing_with_it(
    echo: LlamaForge, fast: Start, act: Any, given_back: str
) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast, "echo"))
    answered(conversation.ask("Two", fast, "echo"))
    before = texts(conversation)
    answered(act(conversation, lambda messages: failing(echo)))
    assert conversation.forget_failed() == given_back
    assert texts(conversation) == before


def failing(echo: LlamaForge) -> Generation:
    """An answer that fails before its first word, as one over the window does."""
    assert echo._engine is not None

    def stream() -> Iterator[None]:
        raise EmptyPrompt("This chat is too long.")
        yield

    return echo._engine.submit(lambda lane: stream())  # type: ignore[union-attr]


def test_an_answer_that_went_well_is_not_forgotten(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("Hello", fast, "echo"))
    assert conversation.forget_failed() is None
    assert len(conversation.turns) == 2


def test_a_new_chat_stops_the_answer_and_keeps_the_settings(slow: Start) -> None:
    conversation = Conversation(system_prompt="Be short.", parameters={"echo": {"max_tokens": 5}})
    generation = conversation.ask(LONG, slow, "echo")
    conversation.clear()
    assert conversation.turns == []
    assert generation.stopping
    assert (conversation.system_prompt, conversation.parameters) == ("Be short.", {"echo": {"max_tokens": 5}})


def test_two_sessions_have_two_conversations() -> None:
    conversations = Conversations()
    assert conversations.of("ada") is conversations.of("ada")
    assert conversations.of("ada") is not conversations.of("bob")


def test_a_reloaded_tab_finds_its_conversation_by_its_key() -> None:
    conversations, key = Conversations(), secrets.token_hex(16)
    first = conversations.attach("before", key)
    conversations.leave("before")
    assert conversations.attach("after", key) is first
    assert conversations.of("after") is first


@pytest.mark.parametrize("key", ["", "1", "x" * 31])
def test_a_key_that_could_be_guessed_opens_nothing(key: str) -> None:
    conversations = Conversations()
    assert conversations.attach("ada", key) is not conversations.attach("bob", key)


def test_the_last_tab_that_leaves_stops_its_answer(slow: Start) -> None:
    conversations, key = Conversations(), secrets.token_hex(16)
    conversation = conversations.attach("one", key)
    conversations.attach("two", key)
    generation = conversation.ask(LONG, slow, "echo")
    conversations.leave("one")
    assert not generation.stopping
    conversations.leave("two")
    assert generation.stopping


def test_leaving_twice_or_unknown_does_nothing() -> None:
    conversations = Conversations()
    for session in ("never seen", "ada", "ada"):
        conversations.leave(session)
    assert conversations.of("ada").turns == []


def test_beyond_the_most_the_longest_idle_conversation_goes(slow: Start) -> None:
    conversations = Conversations(most=lambda: 3)
    running = conversations.of("running")
    running.ask(LONG, slow, "echo")
    others = [conversations.of(f"idle {number}") for number in range(3)]
    assert conversations.of("running") is running  # an answer that is being written keeps its place
    assert conversations.of("idle 2") is others[2]
    assert conversations.of("idle 0") is not others[0]
    running.stop()
