"""The Chat tab: the committed turns, the one being written, and the box to write in."""

from __future__ import annotations

import html
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr
from gradio.events import api

from llamaforge import EmptyPrompt, Generation, GenerationError, LlamaForgeError, clean_text

from .conversation import AnswerRunning, Conversation, JustSent, Start
from .convert import as_markdown, chatbot_value, notice, shown_messages
from .live_turn import Frame, frames
from .page import Page, at_once, shown, unlisted
from .plain_text import LATEX, exact, harmless

Updates = dict[Any, Any]

EMPTY_CHAT = """### Chat with a model on your own computer

1. In **Models**, register a model, if there is none yet: a GGUF file, by its path.
2. Choose it at the top and press **Load**.
3. Write a message below. What you write to a model on this computer does not leave it.
"""
EMPTY_PUBLIC_CHAT = """### Say something

Write a message below. The model that answers is named at the top.
"""


class ChatParts(NamedTuple):
    """The components of the tab that its handlers write to."""

    turns: gr.Chatbot
    live: gr.Markdown
    live_status: gr.HTML
    notice: gr.HTML
    input: gr.Textbox
    send: gr.Button
    stop: gr.Button
    regenerate: gr.Button
    undo: gr.Button
    new: gr.Button
    download: gr.Button
    system_prompt: gr.Textbox


@dataclass(frozen=True, slots=True)
class ChatTab:
    """Draws a conversation and its running answer."""

    page: Page
    parts: ChatParts

    def settled(self, conversation: Conversation, **changes: Any) -> Updates:
        """Return the tab as the conversation is now; `changes` name parts and their values."""
        parts = self.parts
        shown = {
            parts.turns: chatbot_value(conversation, self.page.role, without_running=True),
            parts.live: "",
            parts.live_status: "",
            parts.notice: "",
        }
        return shown | self.buttons(conversation) | {getattr(parts, name): value for name, value in changes.items()}

    def buttons(self, conversation: Conversation) -> Updates:
        """Return which buttons may be pressed now.

        Everything that is drawn in the course of an answer holds them: Gradio's client turns one update into the next
        in place, and so an update that lacks them takes them out of the one before, if that is not drawn yet.
        """
        parts = self.parts
        writing = conversation.running is not None
        there = bool(conversation.turns)
        return {
            parts.send: gr.update(elem_classes=shown(not writing)),
            parts.stop: gr.update(elem_classes=shown(writing)),
            parts.regenerate: gr.update(interactive=there and not writing),
            parts.undo: gr.update(interactive=there and not writing),
        }

    def labels(self) -> Updates:
        """Return what the buttons say already: the last thing that a handler yields is sent once more at its end,
        when the next answer may have begun and Stop must stay."""
        parts = self.parts
        return {button: button.value for button in (parts.send, parts.stop, parts.regenerate, parts.undo)}

    async def answer(
        self,
        conversation: Conversation,
        begin: Callable[[], Generation | None],
        box: str = "",
        written: str = "",
        **changes: Any,
    ) -> AsyncIterator[Updates]:
        """Begin an answer and draw it; where it cannot begin, say why and leave everything as it was.

        Args:
            box: what stands in the message box and must not be overwritten.
            written: what the visitor wrote elsewhere, and finds in the message box where it cannot be used.
        """
        try:
            generation = begin()
        except JustSent:
            pass
        except AnswerRunning as running:
            yield {self.parts.notice: notice(f"{running} Your message stays here.", "hint")}
        except LlamaForgeError as error:
            restored = {"input": written} if written and not box.strip() else {}
            yield self.settled(conversation, **restored) | self.problem(error)
        else:
            async for updates in self.follow(conversation, generation, box, **changes):
                yield updates
        yield self.labels()

    async def follow(
        self, conversation: Conversation, generation: Generation | None, box: str = "", **changes: Any
    ) -> AsyncIterator[Updates]:
        """Draw the conversation, and an answer from its beginning to its end."""
        yield self.settled(conversation, **changes)
        if generation is None:
            return
        buttons = self.buttons(conversation)
        async for frame in frames(self.page.forge, generation, self.page.longest):
            live = {self.parts.live: _live_text(frame), self.parts.live_status: _live_status(frame)}
            yield live | buttons
        written = conversation.forget_failed()
        restored = {"input": written} if written and not box.strip() else {}
        yield self.settled(conversation, notice=self._ending(generation), **restored)

    def _ending(self, generation: Generation) -> str:
        """Return what is to be said of an answer's end: an error, a limit of time, or nothing."""
        result = generation.result
        error = result.error if result is not None else None
        if error is not None:
            details = error.details if isinstance(error, LlamaForgeError) and self.page.for_owner else ""
            return notice(self.page.sentence(error), details=details)
        late = result is not None and self.page.longest is not None and result.seconds >= self.page.longest
        return notice(f"Answers to guests end after {self.page.longest} seconds.", "hint") if late else ""

    @property
    def model(self) -> str:
        """The name of the loaded model."""
        return self.page.forge.status.model or ""

    def told(self, values: Updates, request: gr.Request) -> Conversation:
        """Return the visitor's conversation, with the system prompt as it stands in its box."""
        conversation = self.page.conversation(request)
        own = values[self.parts.system_prompt] if self.page.for_owner else self.page.guests.limits.system_prompt
        conversation.system_prompt = clean_text(own or "")
        return conversation

    def start(self, request: gr.Request) -> Start:
        """Return what starts an answer with this visitor's parameters, a guest's within the limits for guests."""
        if not self.page.for_owner:
            visitor = self.page.conversations.key_of(request.session_hash or "")
            return lambda messages: self.page.guests.answer(visitor, messages)
        parameters = self.page.overrides(request, self.model, "generate")
        return lambda messages: self.page.forge.chat_stream(messages, parameters)

    def problem(self, error: LlamaForgeError) -> Updates:
        """Return an error as a sentence above the box."""
        return {self.parts.notice: notice(self.page.sentence(error))}


def build_chat_tab(page: Page, blocks: gr.Blocks) -> ChatTab:
    """Build the tab's components and their handlers."""
    tab = ChatTab(page, _components(page))
    _wire_asking(tab)
    _wire_editing(tab)
    _wire_visit(tab, blocks)
    _publish_endpoint(tab)
    return tab


def _components(page: Page) -> ChatParts:
    system_prompt = _system_prompt() if page.for_owner else gr.Textbox(visible=False)
    with gr.Column(elem_id="chat-log"):
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
            placeholder=EMPTY_CHAT if page.for_owner else EMPTY_PUBLIC_CHAT,
        )
        live = gr.Markdown(elem_id="live-turn", latex_delimiters=LATEX, line_breaks=True, container=False)
        live_status = gr.HTML(elem_id="live-status")
    with gr.Column(elem_id="composer"):
        notice_line = gr.HTML(elem_id="chat-notice", elem_classes="lf-notice")
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
            regenerate = gr.Button("Regenerate", elem_id="regenerate", size="sm", min_width=80, interactive=False)
            undo = gr.Button("Undo", elem_id="undo", size="sm", min_width=60, interactive=False)
            new = gr.Button("New chat", elem_id="new-chat", size="sm", min_width=80)
            download = gr.Button("Download", elem_id="download-chat", size="sm", min_width=80)
    buttons = (send, stop, regenerate, undo, new, download)
    return ChatParts(turns, live, live_status, notice_line, box, *buttons, system_prompt)


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


def _wire_asking(tab: ChatTab) -> None:
    page, parts = tab.page, tab.parts

    @page.access.handler("guest")
    async def send(values: Updates, request: gr.Request) -> AsyncIterator[Updates]:
        conversation = tab.told(values, request)

        def begin() -> Generation:
            text = _required(values[parts.input])
            if conversation.asked_just_now(text):
                raise JustSent("This message was just sent.")
            return conversation.ask(text, tab.start(request), tab.model)

        async for updates in tab.answer(conversation, begin, input=""):
            yield updates

    @page.access.handler("guest")
    async def regenerate(values: Updates, request: gr.Request) -> AsyncIterator[Updates]:
        conversation = tab.told(values, request)
        start = tab.start(request)
        async for updates in tab.answer(conversation, lambda: conversation.regenerate(start, tab.model)):
            yield updates

    @page.access.handler("guest")
    def stop(request: gr.Request) -> None:
        page.conversation(request).stop()

    outputs = list(parts)
    gr.on(
        [parts.input.submit, parts.send.click],
        send,
        {parts.input, parts.system_prompt},
        outputs,
        concurrency_limit=None,
        trigger_mode="multiple",  # else a message sent right after Stop is dropped; begin() knows a double click
        **unlisted(),
    )
    parts.regenerate.click(regenerate, {parts.system_prompt}, outputs, concurrency_limit=None, **unlisted())
    parts.stop.click(stop, None, None, **at_once())


def _wire_editing(tab: ChatTab) -> None:
    page, parts = tab.page, tab.parts

    @page.access.handler("guest")
    async def edit(values: Updates, change: gr.EditData, request: gr.Request) -> AsyncIterator[Updates]:
        conversation = tab.told(values, request)
        index = change.index if isinstance(change.index, int) else change.index[0]
        shown = shown_messages(conversation, page.role)
        written = exact(str(change.value))

        def begin() -> Generation | None:
            text = _required(written)
            if not (0 <= index < len(shown) and shown[index].editable):
                raise GenerationError("Only messages can be edited.")
            return conversation.edit(shown[index].turn, text, tab.start(request), tab.model)

        box = values[parts.input] or ""
        async for updates in tab.answer(conversation, begin, box, written):
            yield updates

    @page.access.handler("guest")
    def undo(values: Updates, request: gr.Request) -> Updates:
        conversation = page.conversation(request)
        text = conversation.undo()
        # A message that is being written is not overwritten by the one that comes back.
        return tab.settled(conversation, **({} if (values[parts.input] or "").strip() else {"input": text}))

    @page.access.handler("guest")
    def new_chat(request: gr.Request) -> Updates:
        conversation = page.conversation(request)
        conversation.clear()
        return tab.settled(conversation)

    outputs = list(parts)
    parts.turns.edit(edit, {parts.input, parts.system_prompt}, outputs, concurrency_limit=None, **unlisted())
    parts.new.click(new_chat, None, outputs, **at_once())
    parts.undo.click(undo, {parts.input}, outputs, **at_once())


def _wire_visit(tab: ChatTab, blocks: gr.Blocks) -> None:
    page, parts = tab.page, tab.parts
    tab_key, saved = gr.Textbox(visible="hidden"), gr.Textbox(visible="hidden")

    @page.access.handler("guest")
    async def arrive(key: str, request: gr.Request) -> AsyncIterator[Updates]:
        """A page was opened or reloaded: show what this tab's conversation holds."""
        conversation = page.conversations.attach(request.session_hash or "", str(key))
        system_prompt = conversation.system_prompt if page.for_owner else ""
        async for updates in tab.follow(conversation, conversation.running, system_prompt=system_prompt):
            yield updates
        yield tab.labels()

    @page.access.handler("guest")
    def download(request: gr.Request) -> str:
        return as_markdown(page.conversation(request))

    @page.access.handler("guest")
    def leave(request: gr.Request) -> None:
        page.conversations.leave(request.session_hash or "")

    blocks.load(
        arrive, tab_key, list(parts), js="() => window.llamaforge.tabKey()", concurrency_limit=None, **unlisted()
    )
    blocks.unload(leave)
    parts.download.click(download, None, saved, **at_once()).then(
        None, saved, None, js="(text) => window.llamaforge.download(text, 'chat.md')"
    )


def _publish_endpoint(tab: ChatTab) -> None:
    """Publish /chat for gradio_client: a message in, the answer so far out, one conversation a visitor."""
    page = tab.page

    @page.access.handler("guest")
    async def chat(message: str, request: gr.Request) -> AsyncIterator[str]:
        conversation = tab.told({tab.parts.system_prompt: ""}, request)
        generation = conversation.ask(_required(message), tab.start(request), tab.model)
        try:
            async for frame in frames(page.forge, generation, page.longest):
                if frame.text:
                    yield frame.text
        finally:
            generation.stop()
        if generation.result is not None and generation.result.error is not None:
            conversation.forget_failed()
            raise generation.result.error
        yield generation.text

    api(chat, api_name="chat", concurrency_limit=None)


def _required(text: str | None) -> str:
    text = clean_text(text or "")
    if not text.strip():
        raise EmptyPrompt("Write a message first.")
    return text


def _live_text(frame: Frame) -> str:
    if frame.text or not frame.reasoning:
        return harmless(frame.text)
    return "\n".join(f"> {line}" for line in harmless(frame.reasoning).splitlines())


def _live_status(frame: Frame) -> str:
    return f'<span class="lf-pulse"></span>{html.escape(frame.status)}' if frame.status else ""
