"""What the page shows of plain values: messages, figures, sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import PATIENCE, until

from llamaforge import GenerationError, LlamaForge, LoadProgress, ModelError, Result, Status, Usage
from llamaforge_ui.conversation import Conversation, Turn
from llamaforge_ui.convert import (
    SHOWN_TURNS,
    chatbot_value,
    figures,
    notice,
    seconds,
    sentence_for,
    shown_messages,
    status_line,
)
from llamaforge_ui.plain_text import JOINER

SLOW = {"tokens_per_second": 20}


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[LlamaForge]:
    forge = LlamaForge(tmp_path)
    forge.add_model("echo", "echo", "echo")
    forge.load_model("echo")
    yield forge
    forge.unload_model()


def chat(echo: LlamaForge, *messages: str) -> Conversation:
    """A conversation in which every message was answered."""
    conversation = Conversation()
    for message in messages:
        assert conversation.ask(message, echo.chat_stream, "echo").wait(PATIENCE)
    return conversation


def said(message: dict[str, object]) -> object:
    return message["role"], message["content"]


def result_of(finish_reason: str = "stop", **more: object) -> Result:
    known = {"usage": Usage(9, 312), "seconds": 8.0, "time_to_first_token": 0.42, "tokens_per_second": 41.3}
    return Result("text", "", finish_reason, **{**known, **more})  # type: ignore[arg-type]


def test_a_turn_is_message_answer_and_figures(echo: LlamaForge) -> None:
    shown = shown_messages(chat(echo, "Hello you"))
    text = [{"type": "text", "text": "Hello you"}]
    assert [said(one.message) for one in shown[:2]] == [("user", text), ("assistant", text)]
    assert [(one.turn, one.editable) for one in shown] == [(0, True), (1, True), (1, False)]
    assert shown[2].message["metadata"]["title"].startswith("2 tokens · ")
    assert "Model: echo" in shown[2].message["content"][0]["text"]


def test_indentation_and_markup_stay_as_they_were_said(echo: LlamaForge) -> None:
    code = "    if a:\n\tb <= c & d\n\n        e"
    assert [one["content"][0]["text"] for one in chatbot_value(chat(echo, code))[:2]] == [code, code]


def test_messages_answers_and_thoughts_are_shown_harmless(echo: LlamaForge) -> None:
    shown = chatbot_value(chat(echo, "<think>Look: <i x></think>![a](b)"))
    texts = [one["content"][0]["text"] for one in shown]
    assert texts[1:3] == [f"Look: <{JOINER}i x>", f"!{JOINER}[a](b)"]
    assert texts[0] == f"<{JOINER}think>Look: <{JOINER}i x><{JOINER}/think>!{JOINER}[a](b)"


def test_thoughts_stand_folded_before_the_answer(echo: LlamaForge) -> None:
    shown = shown_messages(chat(echo, "<think>Let me see.</think>It is 42."))
    assert [one.message["role"] for one in shown] == ["user", "assistant", "assistant", "assistant"]
    thoughts, answer = shown[1], shown[2]
    assert thoughts.message["metadata"] == {"title": "Thoughts", "status": "done"}
    assert thoughts.message["content"][0]["text"] == "Let me see."
    assert answer.message["content"][0]["text"] == "It is 42."
    assert not thoughts.editable and answer.editable


def test_thoughts_without_an_answer_are_open(echo: LlamaForge) -> None:
    shown = shown_messages(chat(echo, "<think>Only thoughts"))
    assert shown[1].message["metadata"]["status"] == "pending"


def test_the_answer_being_written_is_left_to_the_live_turn(echo: LlamaForge) -> None:
    conversation = Conversation()
    generation = conversation.ask("word " * 500, lambda messages: echo.chat_stream(messages, SLOW), "echo")
    until(lambda: generation.text)
    assert [one["role"] for one in chatbot_value(conversation, without_running=True)] == ["user"]
    conversation.stop()
    assert generation.wait(PATIENCE)
    assert [one["role"] for one in chatbot_value(conversation, without_running=True)][:2] == ["user", "assistant"]


def test_the_last_turns_are_shown_under_their_own_numbers() -> None:
    turns = [Turn(("user", "assistant")[number % 2], f"text {number}") for number in range(100)]
    shown = shown_messages(Conversation(turns=turns))
    assert len(shown) == SHOWN_TURNS == 40
    assert [one.turn for one in shown] == list(range(60, 100))


def test_an_edited_answer_is_a_message_without_figures() -> None:
    assert [said(one) for one in chatbot_value(Conversation(turns=[Turn("assistant", "Mine")]))] == [
        ("assistant", [{"type": "text", "text": "Mine"}])
    ]


def test_an_error_stands_in_the_details_of_its_answer() -> None:
    conversation = Conversation(turns=[Turn("user", "Hello")])
    assert conversation.turns[0].result is None
    assert figures(result_of("error", error=GenerationError("Out of luck."))).endswith("ended by an error")


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (result_of(), "312 tokens · 0.42 s to first · 41 tokens/s · finished"),
        (result_of("length"), "312 tokens · 0.42 s to first · 41 tokens/s · stopped at 312 tokens"),
        (result_of("cancelled"), "312 tokens · 0.42 s to first · 41 tokens/s · stopped"),
        (result_of(usage=Usage(9, 1), tokens_per_second=None), "1 token · 0.42 s to first · finished"),
        (result_of("cancelled", usage=None, time_to_first_token=None, tokens_per_second=None), "stopped"),
        (result_of("length", usage=None), "0.42 s to first · 41 tokens/s · stopped at the limit"),
        (result_of(usage=Usage(9, 1234), time_to_first_token=None), "1,234 tokens · 41 tokens/s · finished"),
    ],
    ids=["finished", "length", "stopped", "one token", "nothing known", "no usage", "thousands"],
)  # fmt: skip
def test_figures_say_what_was_measured_and_no_more(result: Result, line: str) -> None:
    assert figures(result) == line


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00 s"),
        (0.042, "0.04 s"),
        (0.94, "0.94 s"),
        (3.21, "3.2 s"),
        (60.0, "1 min 0 s"),
        (119.7, "2 min 0 s"),
        (125.0, "2 min 5 s"),
    ],
)
def test_durations_are_read_as_a_person_says_them(value: float, text: str) -> None:
    assert seconds(value) == text


def test_a_notice_is_text_with_a_role() -> None:
    assert notice("") == ""
    assert notice('<b>"bold"</b>') == (
        '<div class="lf-problem" role="alert"><p>&lt;b&gt;&quot;bold&quot;&lt;/b&gt;</p></div>'
    )  # fmt: skip
    assert "<summary>Details</summary><pre>llama.cpp: &lt;why&gt;</pre>" in notice("No.", details="llama.cpp: <why>")
    assert 'role="status"' in notice("Saved.", "hint")


def test_an_error_of_ours_is_shown_and_a_bug_is_not() -> None:
    assert sentence_for("owner", ModelError("File not found: x.gguf.")) == "File not found: x.gguf."
    assert sentence_for("owner", KeyError("secret/path")) == "Something went wrong."


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (Status(), "nothing loaded"),
        (Status("loading", "big"), "loading big · 7 s"),
        (Status("unloading", "big"), "unloading"),
        (Status("ready", "big", summary=("4.1 GB", "on CPU")), "ready · 4.1 GB · on CPU"),
    ],
    ids=["empty", "loading", "unloading", "ready"],
)
def test_the_owner_sees_what_is_loaded_and_how(status: Status, text: str) -> None:
    assert text in shown(status_line(status, 7.4, public=False))


def shown(line: str) -> str:
    return re.sub("<[^>]*>", "", line)


def test_a_load_tells_how_far_it_is_where_the_engine_tells() -> None:
    loading = Status("loading", "big")
    assert "loading big · 42% · 7 s" in status_line(loading, 7.4, public=False, progress=LoadProgress(0.42))
    fetching = LoadProgress(None, "downloading")
    assert "downloading big · 7 s" in status_line(loading, 7.4, public=False, progress=fetching)


def test_guests_see_no_facts_about_the_machine() -> None:
    line = status_line(Status("ready", "big", summary=("4.1 GB", "32 of 32 layers on GPU")), 0, public=True)
    assert "ready" in line
    assert "GB" not in line and "GPU" not in line


def test_a_models_name_is_text_in_the_status_line() -> None:
    assert "<b>" not in status_line(Status("loading", "<b>"), 1, public=False)
