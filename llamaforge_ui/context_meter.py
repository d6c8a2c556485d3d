"""How full the context window is, counted with the model's own tokenizer while a person types."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from llamaforge import LlamaForgeError, Message, clean_text

from .chat_tab import ChatTab, session_of
from .conversation import Conversation
from .page import Page, at_once

LETTERS_A_TOKEN = 4  # of a service that does not tell; for English


def wire_meter(tab: ChatTab) -> None:
    """Count anew when the chat, the model or what is typed changes; typing alone never counts the chat again."""
    page, parts = tab.page, tab.parts

    @page.access.handler(page.role)
    def measure(values: dict[Any, Any], request: gr.Request) -> str:
        conversation = page.conversation(request)
        typed = clean_text(values[parts.input] or "")
        if page.for_owner:
            tab.tell(session_of(request), conversation, values[parts.system_prompt])
        else:
            typed = typed[: page.guests.limits.message_characters]  # no more may be sent
        return meter(page, conversation, typed)

    gr.on(
        [parts.input.change, parts.system_prompt.blur, parts.meter_due.change],
        measure,
        {parts.input, parts.system_prompt},
        parts.meter,
        trigger_mode="always_last",
        **at_once(),
    )


def meter(page: Page, conversation: Conversation, typed: str) -> str:
    """Return the meter as HTML; nothing where no model is loaded."""
    status = page.forge.status
    if status.state != "ready":
        return ""
    said, exact = _tokens_of_chat(page, conversation)
    more, exact_too = _tokens_of_text(page, typed)
    used, about = said + more, "" if exact and exact_too else "about "
    window = status.context_window
    if window is None:
        return f'<div class="lf-meter">{about}{used:,} tokens</div>'
    state, hint = "", f"{max(window - used, 0):,} tokens are left for the answer."
    if used >= window:
        state = " lf-over"
        hint = "The oldest messages are left out." if conversation.overflow == "drop" else "Too long: shorten it."
    text = f"{about}{used:,} of {window:,} tokens"
    bar = f'<meter min="0" max="{window}" value="{min(used, window)}" aria-label="Context window used"></meter>'
    return f'<div class="lf-meter{state}" title="{html.escape(hint)}">{bar}<span>{text}</span></div>'


def _tokens_of_chat(page: Page, conversation: Conversation) -> tuple[int, bool]:
    """Return the tokens of the chat so far, as the model is given it, counted once for each of its states."""
    status = page.forge.status
    # With the version, as plugins may have been switched since.
    state = (conversation.state, conversation.system_prompt, status.model, status.since, status.version)
    if conversation.counted is not None and conversation.counted[0] == state:
        return conversation.counted[1]
    messages = conversation.messages()
    if conversation.running is not None:  # counted at its end
        text = "".join(message.content for message in messages) if conversation.counted is None else ""
        return conversation.counted[1] if conversation.counted is not None else (len(text) // LETTERS_A_TOKEN, False)
    try:
        # With an empty message, so that what the template puts around the next one is counted too.
        prompt = page.forge.prompt([*messages, Message("user", "")])
        tokens = prompt.tokens if prompt is not None else None
    except LlamaForgeError:
        tokens = None  # the template refuses this chat; sending it will say so
    text = "".join(message.content for message in messages)
    counted = (tokens, True) if tokens is not None else _tokens_of_text(page, text)
    conversation.counted = (state, counted)
    return counted


def _tokens_of_text(page: Page, text: str) -> tuple[int, bool]:
    if not text:
        return 0, True
    try:
        count = page.forge.count_tokens(text)
    except LlamaForgeError:
        count = None
    return (count, True) if count is not None else (-(-len(text) // LETTERS_A_TOKEN), False)
