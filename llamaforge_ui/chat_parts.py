"""The components of the Chat tab, and nothing of what they do."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from .page import Page, shown
from .plain_text import LATEX

AT_THE_EDGE = [("When full: refuse", "refuse"), ("When full: drop oldest", "drop")]


class ChatParts(NamedTuple):
    """The components of the tab that its handlers write to."""

    welcome: gr.HTML  # an empty chat's
    older: gr.Button
    turns: gr.Chatbot
    asked: gr.Markdown  # the message that is being answered, until both stand in the chat
    live: gr.Markdown
    live_status: gr.HTML
    prompt: gr.HTML
    notice: gr.HTML
    attached: gr.HTML
    input: gr.Textbox
    send: gr.Button
    stop: gr.Button
    attach: gr.Button
    regenerate: gr.Button
    undo: gr.Button
    new: gr.Button
    meter: gr.HTML
    overflow: gr.Dropdown
    system_prompt: gr.Textbox
    key: gr.Textbox  # that only this browser tab knows
    chat: gr.Textbox  # the id of the chat that it shows
    answering: gr.Textbox  # chat_tab.answering(): which answer live.js follows
    images: gr.Textbox  # attached ones, as a JSON list of data URLs
    meter_due: gr.Textbox  # changes when the context must be counted anew


def build_chat_parts(page: Page) -> ChatParts:
    """Build the components, from the top of the tab to its bottom."""
    system_prompt = _system_prompt() if page.for_owner else gr.Textbox(visible=False)
    parts: list[Any] = [*_log(), *_composer(), system_prompt]
    return ChatParts(*parts, *(gr.Textbox(visible="hidden") for _ in range(5)))


def _log() -> tuple[Any, ...]:
    with gr.Column(elem_id="chat-log"):
        welcome = gr.HTML(elem_id="welcome")
        older = gr.Button("Show older messages", elem_id="older-turns", size="sm", elem_classes=shown(False))
        turns = gr.Chatbot(
            elem_id="chat-turns",
            label="Conversation",
            show_label=False,
            container=False,
            height=None,
            autoscroll=False,
            editable="all",
            buttons=["copy"],
            latex_delimiters=LATEX,
            reasoning_tags=[],
            allow_tags=False,
            feedback_options=None,
            layout="bubble",
            group_consecutive_messages=False,
            placeholder="",  # welcome stands there
        )
        asked = gr.Markdown(elem_id="live-question", latex_delimiters=LATEX, line_breaks=True, container=False)
        live = gr.Markdown(elem_id="live-turn", latex_delimiters=LATEX, line_breaks=True, container=False)
        live_status = gr.HTML(elem_id="live-status")
        prompt = gr.HTML(elem_id="prompt-view")
    return welcome, older, turns, asked, live, live_status, prompt


def _composer() -> tuple[Any, ...]:
    with gr.Column(elem_id="composer"):
        notice_line = gr.HTML(elem_id="chat-notice", elem_classes="lf-notice")
        attached = gr.HTML(elem_id="attached")
        with gr.Row(elem_id="composer-row"):
            box = gr.Textbox(
                elem_id="chat-input",
                label="Message",
                show_label=False,
                placeholder="Message",
                lines=1,
                max_lines=8,
                scale=8,
                autofocus=True,
                container=False,
            )
            send = gr.Button("Send", elem_id="send", variant="primary", scale=1, min_width=88)
            stop = gr.Button("Stop", elem_id="stop", variant="stop", scale=1, min_width=88, elem_classes=shown(False))
        with gr.Row(elem_id="chat-actions"):
            attach = gr.Button("Attach", elem_id="attach", size="sm", min_width=60)
            regenerate = gr.Button("Regenerate", elem_id="regenerate", size="sm", min_width=80, interactive=False)
            undo = gr.Button("Undo", elem_id="undo", size="sm", min_width=60, interactive=False)
            new = gr.Button("New chat", elem_id="new-chat", size="sm", min_width=80)
            meter = gr.HTML(elem_id="context-meter")
            overflow = gr.Dropdown(
                AT_THE_EDGE,
                value="refuse",
                elem_id="overflow",
                label="When the context window is full",
                show_label=False,
                container=False,
                min_width=120,
            )
    return notice_line, attached, box, send, stop, attach, regenerate, undo, new, meter, overflow


def _system_prompt() -> gr.Textbox:
    with gr.Accordion("System prompt", open=False, elem_id="system-prompt-fold"):
        return gr.Textbox(
            elem_id="system-prompt",
            label="System prompt",
            show_label=False,
            info="What the model is told before the conversation begins. It holds for this chat.",
            lines=2,
            max_lines=12,
        )
