"""A chat on the server: turns, versions and branches, what the model is given, and what is kept of it all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scripted import PATIENCE, until

from llamaforge import EmptyPrompt, Generation, Image, LlamaForge, Message, NoModelLoaded
from llamaforge_ui.conversation import UNSEEN, AnswerRunning, Conversation, Start
from llamaforge_ui.history import History

LONG = "word " * 500


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
    answered(conversation.ask("Hello you", fast))
    assert texts(conversation) == [("user", "Hello you"), ("assistant", "Hello you")]
    assert conversation.turns[1].model == "echo"
    assert conversation.turns[1].result is not None


def test_the_model_is_given_system_prompt_and_all_turns(echo: LlamaForge) -> None:
    conversation = Conversation()
    conversation.system_prompt = "Be short."
    given: list[list[Message]] = []

    def start(messages: list[Message]) -> Generation:
        given.append(list(messages))
        return echo.chat_stream(messages)

    for text in ("One", "Two"):
        answered(conversation.ask(text, start))
    one = [Message("system", "Be short."), Message("user", "One")]
    assert given == [one, [*one, Message("assistant", "One"), Message("user", "Two")]]


def test_a_blank_system_prompt_is_not_sent() -> None:
    conversation = Conversation()
    conversation.system_prompt = " \n"
    assert conversation.messages() == []


def test_a_growing_answer_is_read_as_it_grows(slow: Start) -> None:
    conversation = Conversation()
    generation = conversation.ask(LONG, slow)
    until(lambda: generation.text)
    assert conversation.turns[1].text.startswith("word")
    assert conversation.running is generation
    conversation.stop()


def test_while_an_answer_is_written_nothing_else_may_begin(slow: Start) -> None:
    conversation = Conversation()
    conversation.ask(LONG, slow)
    for act in (
        lambda: conversation.ask("Me too", slow),
        lambda: conversation.regenerate(slow),
        lambda: conversation.edit(0, "Other", slow),
        conversation.undo,
    ):
        with pytest.raises(AnswerRunning, match="still being written"):
            act()
    assert len(conversation.turns) == 2
    conversation.stop()


def test_a_second_click_on_send_is_known(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("Hello", fast))
    assert conversation.asked_just_now("Hello")
    assert not conversation.asked_just_now("Hello again")


def test_stop_keeps_what_is_written_and_frees_the_chat(slow: Start) -> None:
    conversation = Conversation()
    generation = conversation.ask(LONG, slow)
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
    answered(conversation.ask("Hello", fast))
    before = texts(conversation)
    echo.unload_model()
    with pytest.raises(NoModelLoaded):
        conversation.ask("And now?", fast)
    with pytest.raises(NoModelLoaded):
        conversation.regenerate(fast)
    with pytest.raises(NoModelLoaded):
        conversation.edit(0, "Other", fast)
    assert texts(conversation) == before


def test_regenerate_adds_a_version_of_the_last_answer(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast))
    answered(conversation.ask("Two", fast))
    old = conversation.turns[3]
    answered(conversation.regenerate(fast))
    assert texts(conversation) == [("user", "One"), ("assistant", "One"), ("user", "Two"), ("assistant", "Two")]
    assert conversation.versions(conversation.turns[3]) == (2, 2)
    conversation.switch(conversation.turns[3].id, -1)
    assert conversation.turns[3] is old


def test_regenerate_answers_a_message_that_has_no_answer(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast))
    conversation.turns.pop()
    answered(conversation.regenerate(fast))
    assert texts(conversation) == [("user", "One"), ("assistant", "One")]


def test_an_empty_chat_has_nothing_to_regenerate_or_undo(fast: Start) -> None:
    conversation = Conversation()
    assert conversation.regenerate(fast) is None
    assert conversation.undo() == ""


def test_editing_a_message_answers_it_anew_beside_what_was_said_before(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast))
    answered(conversation.ask("Two", fast))
    before = texts(conversation)
    answered(conversation.edit(0, "Other", fast))
    assert texts(conversation) == [("user", "Other"), ("assistant", "Other")]
    conversation.switch(conversation.turns[0].id, -1)
    assert texts(conversation) == before


def test_editing_an_answer_keeps_what_followed_and_the_answer_as_it_was(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast))
    answered(conversation.ask("Two", fast))
    before = texts(conversation)
    assert conversation.edit(1, "Better", fast) is None
    assert texts(conversation) == [before[0], ("assistant", "Better"), *before[2:]]
    conversation.switch(conversation.turns[1].id, -1)
    assert texts(conversation) == before


@pytest.mark.parametrize("index", [-1, 2, 99])
def test_editing_a_turn_that_is_not_there_changes_nothing(fast: Start, index: int) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast))
    assert conversation.edit(index, "Other", fast) is None
    assert texts(conversation) == [("user", "One"), ("assistant", "One")]


def test_undo_returns_the_message_and_takes_it_and_its_answer_away(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast))
    answered(conversation.ask("Two", fast))
    assert conversation.undo() == "Two"
    assert texts(conversation) == [("user", "One"), ("assistant", "One")]
    answered(conversation.ask("Two", fast))
    assert len(conversation.turns) == 4


def test_a_message_that_failed_at_once_is_given_back(echo: LlamaForge) -> None:
    conversation = Conversation()
    generation = conversation.ask("Hello", lambda messages: failing(echo))
    answered(generation)
    assert conversation.forget_failed() == "Hello"
    assert conversation.turns == []


@pytest.mark.parametrize(
    ("act", "given_back"),
    [
        (lambda conversation, start: conversation.ask("Three", start), "Three"),
        (lambda conversation, start: conversation.edit(0, "Other", start), "Other"),
        (lambda conversation, start: conversation.regenerate(start), ""),
    ],
    ids=["ask", "edit", "regenerate"],
)
def test_an_answer_that_fails_before_its_first_word_takes_nothing_with_it(
    echo: LlamaForge, fast: Start, act: Any, given_back: str
) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast))
    answered(conversation.ask("Two", fast))
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
    answered(conversation.ask("Hello", fast))
    assert conversation.forget_failed() is None
    assert len(conversation.turns) == 2


def test_a_successor_is_empty_and_has_the_same_settings() -> None:
    conversation = Conversation()
    conversation.system_prompt, conversation.overflow = "Be short.", "drop"
    conversation.parameters = {"echo": {"max_tokens": 5}}
    new = conversation.successor()
    assert (new.turns, new.system_prompt, new.overflow) == ([], "Be short.", "drop")
    new.parameters["echo"]["max_tokens"] = 6
    assert conversation.parameters == {"echo": {"max_tokens": 5}}


# Versions and branches


def test_every_version_keeps_what_followed_it(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast))
    answered(conversation.regenerate(fast))
    answered(conversation.ask("After the second", fast))
    conversation.switch(conversation.turns[1].id, -1)
    assert texts(conversation) == [("user", "One"), ("assistant", "One")]
    conversation.switch(conversation.turns[1].id, 1)
    assert texts(conversation)[2:] == [("user", "After the second"), ("assistant", "After the second")]


@pytest.mark.parametrize("step", [-1, 1])
def test_beyond_the_first_and_the_last_version_nothing_changes(fast: Start, step: int) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast))
    shown = conversation.turns
    conversation.switch(shown[1].id, step)
    conversation.switch(10_000, step)
    assert conversation.turns == shown


def test_what_was_undone_is_still_a_version(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast))
    conversation.undo()
    answered(conversation.ask("Two", fast))
    assert conversation.versions(conversation.turns[0]) == (2, 2)
    conversation.switch(conversation.turns[0].id, -1)
    assert texts(conversation) == [("user", "One"), ("assistant", "One")]


def test_a_branch_is_a_chat_of_its_own(fast: Start) -> None:
    conversation = Conversation(visitor="ada")
    for text in ("One", "Two"):
        answered(conversation.ask(text, fast))
    branch = conversation.branch(conversation.turns[1].id)
    assert branch is not None and branch.id != conversation.id
    answered(branch.ask("Other", fast))
    assert texts(branch) == [("user", "One"), ("assistant", "One"), ("user", "Other"), ("assistant", "Other")]
    assert [text for _, text in texts(conversation)] == ["One", "One", "Two", "Two"]
    assert {found.title for found in conversation.history.chats("ada")} == {"One", "One (branch)"}


def test_an_answer_that_is_being_written_has_no_branch(slow: Start) -> None:
    conversation = Conversation()
    conversation.ask(LONG, slow)
    assert conversation.branch(conversation.turns[1].id) is None
    conversation.stop()


# Continuing


def cut(conversation: Conversation, slow: Start) -> str:
    """Have an answer that was stopped, and return how far it came."""
    generation = conversation.ask(LONG, slow)
    until(lambda: generation.text)
    conversation.stop()
    answered(generation)
    conversation.settle()
    return conversation.turns[-1].text


def test_a_stopped_answer_is_continued_in_its_place(fast: Start, slow: Start) -> None:
    conversation = Conversation()
    written = cut(conversation, slow)
    given: list[Message] = []

    def start(messages: list[Message]) -> Generation:
        given.extend(messages)
        return fast([Message("user", " and on")])

    generation = answered(conversation.go_on(start))
    conversation.settle()
    assert given[-1] == Message("assistant", written)
    assert conversation.turns[-1].text == written + generation.text
    assert conversation.versions(conversation.turns[-1]) == (1, 1)
    assert len(conversation.turns) == 2


def test_a_finished_answer_has_nothing_to_continue(fast: Start) -> None:
    conversation = Conversation()
    assert conversation.go_on(fast) is None
    answered(conversation.ask("One", fast))
    assert conversation.go_on(fast) is None


def test_where_continuing_fails_the_answer_is_as_it_was_and_may_be_continued(echo: LlamaForge, slow: Start) -> None:
    conversation = Conversation()
    written = cut(conversation, slow)
    answered(conversation.go_on(lambda messages: failing(echo)))
    assert conversation.forget_failed() is None
    conversation.settle()
    assert conversation.turns[-1].text == written
    assert conversation.turns[-1].unfinished


# What the model is given


def test_where_an_answer_never_came_both_messages_are_given_as_one(echo: LlamaForge, slow: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", slow))
    conversation.turns[1].said, conversation.turns[1].generation = "", None  # its program was killed
    conversation.turns.append(conversation.turns[0])
    assert conversation.messages() == [Message("user", "One\n\nOne")]


def test_earlier_pictures_are_a_line_for_a_model_that_cannot_see_them(fast: Start) -> None:
    conversation = Conversation()
    picture = Image(b"picture", "image/png")
    answered(conversation.ask("What is this?", lambda messages: fast([Message("user", "Hi")]), [picture]))
    assert conversation.messages()[0] == Message("user", "What is this?", (picture,))
    conversation.sees_images = False
    assert conversation.messages()[0] == Message("user", f"{UNSEEN}\nWhat is this?")


# What is kept


def again(conversation: Conversation) -> Conversation:
    """Return the chat as another start of the program finds it."""
    record = conversation.history.chat(conversation.visitor, conversation.id)
    assert record is not None
    return Conversation(conversation.history, conversation.visitor, record)


def test_a_chat_is_kept_from_its_first_message_on(fast: Start) -> None:
    history = History()
    conversation = Conversation(history, "ada")
    conversation.system_prompt = "Be short."
    assert history.chats("ada") == []
    answered(conversation.ask("Hello   you\nand all", fast))
    conversation.settle()
    found = again(conversation)
    assert texts(found) == texts(conversation)
    assert (found.title, found.system_prompt) == ("Hello you and all", "Be short.")


def test_how_an_answer_was_made_is_kept_with_it(echo: LlamaForge, fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("Hello", lambda messages: echo.chat_stream(messages, {"tokens_per_second": 500})))
    conversation.settle()
    turn = again(conversation).turns[1]
    assert (turn.model, turn.about["settings"]) == ("echo", {"tokens_per_second": 500})
    assert turn.result is not None and turn.result == conversation.turns[1].result
    assert turn.result.finish_reason == "stop"


def test_versions_and_the_shown_branch_are_kept(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("One", fast))
    answered(conversation.edit(0, "Other", fast))
    conversation.switch(conversation.turns[0].id, -1)
    found = again(conversation)
    assert texts(found) == [("user", "One"), ("assistant", "One")]
    assert found.versions(found.turns[0]) == (1, 2)


def test_what_was_shown_of_an_answer_is_kept_before_it_ends(slow: Start) -> None:
    conversation = Conversation()
    generation = conversation.ask(LONG, slow)
    until(lambda: len(generation.text) > 20)
    for length in (5, 10, 20):
        conversation.journal(generation, generation.text[:length], "")
    found = again(conversation)
    assert found.turns[1].text == generation.text[:20]
    assert found.turns[1].unfinished
    conversation.stop()


def test_the_words_of_a_continued_answer_are_journaled_behind_the_earlier_ones(fast: Start, slow: Start) -> None:
    conversation = Conversation()
    written = cut(conversation, slow)
    generation = conversation.go_on(slow)
    assert generation is not None
    until(lambda: len(generation.text) > 4)
    conversation.journal(generation, generation.text[:5], "")
    assert again(conversation).turns[1].text == written + generation.text[:5]
    conversation.stop()


def test_a_first_message_that_failed_leaves_no_chat_behind(echo: LlamaForge) -> None:
    conversation = Conversation(visitor="ada")
    answered(conversation.ask("Hello", lambda messages: failing(echo)))
    conversation.forget_failed()
    assert conversation.history.chats("ada") == []
    assert conversation.title == ""


def test_a_disk_that_is_full_stops_no_answer_and_is_told(fast: Start, tmp_path: Path) -> None:
    history = History(tmp_path / "chats.sqlite3")
    conversation = Conversation(history)
    generation = conversation.ask("Hello", fast)
    history._connection.execute("PRAGMA query_only = ON")  # as a disk that takes nothing more
    answered(generation)
    conversation.settle()
    assert texts(conversation)[1] == ("assistant", "Hello")
    assert "could not be kept" in conversation.problem
    history.close()


def test_settings_and_the_choice_at_the_edge_are_kept(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("Hello", fast))
    conversation.parameters["echo"] = {"max_tokens": 5}
    conversation.origins["echo"] = {"max_tokens": "preset short"}
    conversation.overflow = "drop"
    conversation.save_settings()
    found = again(conversation)
    assert found.parameters == {"echo": {"max_tokens": 5}}
    assert (found.origins, found.overflow) == ({"echo": {"max_tokens": "preset short"}}, "drop")


@pytest.mark.parametrize(
    ("given", "title"),
    [("  My chat ", "My chat"), ("", "Hello"), ("x" * 500, "x" * 200)],
    ids=["named", "emptied", "long"],
)
def test_a_chat_is_renamed(fast: Start, given: str, title: str) -> None:
    conversation = Conversation()
    answered(conversation.ask("Hello", fast))
    conversation.rename(given)
    assert again(conversation).title == title


def test_what_is_set_in_a_chat_that_was_opened_again_is_kept(fast: Start) -> None:
    conversation = Conversation()
    answered(conversation.ask("Hello", fast))
    conversation.parameters["echo"] = {"max_tokens": 5}
    conversation.save_settings()
    found = again(conversation)
    found.parameters["echo"]["max_tokens"] = 6
    found.save_settings()
    assert again(found).parameters == {"echo": {"max_tokens": 6}}
