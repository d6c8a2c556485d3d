"""What the chatbot shows of a chat: what was said, and under it figures, versions and buttons."""

from __future__ import annotations

import re
from typing import Any

import gradio as gr
from plugin_kit import broken, use
from scripted import PATIENCE, until

from llamaforge import LlamaForge
from llamaforge_ui.conversation import Conversation
from llamaforge_ui.plain_text import JOINER
from llamaforge_ui.turn import Turn
from llamaforge_ui.turns import chatbot_value, shown_messages
from llamaforge_ui.visits import SHOWN_TURNS

SLOW = {"tokens_per_second": 20}


def chat(echo: LlamaForge, *messages: str) -> Conversation:
    """A conversation in which every message was answered."""
    conversation = Conversation()
    for message in messages:
        assert conversation.ask(message, echo.chat_stream).wait(PATIENCE)
        conversation.settle()
    return conversation


def said(message: dict[str, object]) -> object:
    return message["role"], message["content"]


def text_of(message: dict[str, Any]) -> str:
    """Return a said text, or the markup of a message of the page's own."""
    content = message["content"]
    return str(content.value) if isinstance(content, gr.HTML) else str(content[0]["text"])


def tails(conversation: Conversation, role: str = "owner") -> list[str]:
    """Return what stands under the turns."""
    return [text_of(one) for one in chatbot_value(conversation, role) if isinstance(one["content"], gr.HTML)]


def acts(markup: str) -> list[str]:
    return re.findall(r'data-act="([a-z]+)"', markup)


def test_a_turn_is_message_answer_and_figures(echo: LlamaForge) -> None:
    shown = shown_messages(chat(echo, "Hello you"))
    text = [{"type": "text", "text": "Hello you"}]
    assert [said(one.message) for one in shown[:2]] == [("user", text), ("assistant", text)]
    assert [(one.turn, one.editable) for one in shown] == [(0, True), (1, True), (1, False)]
    assert "<summary>2 tokens · " in text_of(shown[2].message)
    assert "<p>Model: echo</p>" in text_of(shown[2].message)


def test_indentation_and_markup_stay_as_they_were_said(echo: LlamaForge) -> None:
    code = "    if a:\n\tb <= c & d\n\n        e"
    assert [one["content"][0]["text"] for one in chatbot_value(chat(echo, code))[:2]] == [code, code]


def test_messages_answers_and_thoughts_are_shown_harmless(echo: LlamaForge) -> None:
    shown = chatbot_value(chat(echo, "<think>Look: <i x></think>![a](b)"))
    texts = [text_of(one) for one in shown]
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
    generation = conversation.ask("word " * 500, lambda messages: echo.chat_stream(messages, SLOW))
    until(lambda: generation.text)
    assert [one["role"] for one in chatbot_value(conversation, without_running=True)] == ["user"]
    conversation.stop()
    assert generation.wait(PATIENCE)
    assert [one["role"] for one in chatbot_value(conversation, without_running=True)][:2] == ["user", "assistant"]


def test_the_last_turns_are_shown_under_their_own_numbers() -> None:
    conversation = Conversation()
    conversation.turns = [Turn(("user", "assistant")[number % 2], f"text {number}") for number in range(100)]
    shown = shown_messages(conversation)
    assert len(shown) == SHOWN_TURNS == 20
    assert [one.turn for one in shown] == list(range(80, 100))
    assert [one.turn for one in shown_messages(conversation, most=80)] == list(range(20, 100))


def test_what_can_be_done_with_an_answer_depends_on_who_asks(echo: LlamaForge) -> None:
    (tail,) = tails(chat(echo, "Hello"))
    assert acts(tail) == ["branch", "prompt"]
    (tail,) = tails(chat(echo, "Hello"), "guest")
    assert acts(tail) == ["branch"]


def test_settings_are_told_to_the_owner_alone(echo: LlamaForge) -> None:
    conversation = Conversation()
    generation = conversation.ask("Hello", lambda messages: echo.chat_stream(messages, {"tokens_per_second": 500}))
    assert generation.wait(PATIENCE)
    assert "Settings: tokens_per_second 500" in tails(conversation)[0]
    assert acts(tails(conversation)[0]) == ["branch", "prompt", "settings"]
    assert "tokens_per_second" not in tails(conversation, "guest")[0]


def test_what_the_cache_knew_is_told_to_the_owner_alone() -> None:
    conversation = Conversation()
    usage = {"prompt_tokens": 90, "completion_tokens": 1, "cached_tokens": 80}
    conversation.turns = [Turn("assistant", "Yes.", about={"finish_reason": "stop", "usage": usage})]
    assert "<p>Prompt: 90 tokens, 80 of them from the cache</p>" in tails(conversation)[0]
    assert "<p>Prompt: 90 tokens</p>" in tails(conversation, "guest")[0]


def test_versions_are_switched_at_their_turn(echo: LlamaForge) -> None:
    conversation = chat(echo, "Hello")
    for act in (
        lambda: conversation.regenerate(echo.chat_stream),
        lambda: conversation.edit(0, "Hi", echo.chat_stream),
    ):
        generation = act()
        assert generation is not None and generation.wait(PATIENCE)
        conversation.settle()
    question, answer = tails(conversation)
    assert "<span>2 of 2</span>" in question and "of 2" not in answer
    conversation.switch(conversation.turns[0].id, -1)
    (question, answer) = tails(conversation)
    assert "<span>1 of 2</span>" in question and "<span>2 of 2</span>" in answer
    assert re.search(r'data-step="1"[^>]* disabled', answer)
    assert re.search(r'data-step="-1"[^>]* disabled', question)


def test_only_the_last_answer_that_was_cut_off_can_be_continued(echo: LlamaForge) -> None:
    conversation = Conversation()
    for _ in range(2):
        generation = conversation.ask("word " * 500, lambda messages: echo.chat_stream(messages, SLOW))
        until(lambda generation=generation: generation.text)
        conversation.stop()
        assert generation.wait(PATIENCE)
        conversation.settle()
    first, last = tails(conversation)
    assert "continue" not in acts(first)
    assert "continue" in acts(last)


def test_a_line_shows_where_the_context_begins(echo: LlamaForge) -> None:
    conversation = chat(echo, "One", "Two")
    conversation.turns[3].about["dropped"] = 2
    shown = shown_messages(conversation)
    edge = next(place for place, one in enumerate(shown) if "lf-edge" in text_of(one.message))
    assert "no longer sees what is above" in text_of(shown[edge].message)
    assert text_of(shown[edge + 1].message) == "Two"


def test_an_answer_that_a_killed_program_wrote_can_be_continued() -> None:
    conversation = Conversation()
    conversation.turns = [Turn("assistant", "half", about={"finish_reason": "interrupted"})]
    (tail,) = tails(conversation)
    assert "<summary>interrupted</summary>" in tail
    assert "continue" in acts(tail)


def test_pictures_stand_before_their_message() -> None:
    conversation = Conversation()
    conversation.turns = [Turn("user", "What is this?", about={"thumbnails": ["data:image/jpeg;base64,AAAA"]})]
    picture, message = chatbot_value(conversation)
    assert '<img src="data:image/jpeg;base64,AAAA" alt="Picture 1">' in text_of(picture)
    assert text_of(message) == "What is this?"


def test_what_others_wrote_is_text_in_the_pages_own_markup() -> None:
    conversation = Conversation()
    hostile = {"model": "<b>", "settings": {"stop": "<i>"}, "finish_reason": "stop", "error": "<u>"}
    hostile["thumbnails"] = ['"><script>']
    conversation.turns = [Turn("assistant", "x", about=hostile)]
    markup = "".join(tails(conversation))
    assert not re.search("<(b|i|u|script)>", markup)


def test_guests_see_what_plugins_note_but_not_what_failed_in_them(echo: LlamaForge) -> None:
    echo.add_model("echo", "echo", "echo", plugins={"trimmer": {"turns": 1}})
    use(echo, broken(before=lambda self, messages: None))
    conversation = chat(echo, "One", "Two")
    trimmed = '<p class="lf-note">trimmer: 2 older messages were left out.</p>'
    assert trimmed in tails(conversation, "guest")[-1] and "failed" not in "".join(tails(conversation, "guest"))
    assert trimmed in tails(conversation)[-1]
    assert "Plugin &#x27;mine&#x27; failed: before() gave NoneType" in tails(conversation)[-1]
