"""The Chat tab: the committed turns, the one being written, and the box to write in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.events import api

from llamaforge import EmptyPrompt, Generation, GenerationError, LlamaForgeError, clean_text

from .chat_parts import ChatParts, build_chat_parts
from .conversation import AnswerRunning, Begun, Conversation, JustSent, Start
from .convert import notice
from .live_turn import frames, live_status, live_text
from .page import Page, at_once, shown, unlisted
from .pictures import CannotRead, read_pictures, thumbnail
from .plain_text import exact
from .sidebar import SidebarParts, chat_list
from .turns import chatbot_value, shown_messages
from .welcome import welcome

Updates = dict[Any, Any]


@dataclass(frozen=True, slots=True)
class ChatTab:
    """Draws the chat that a session shows, its running answer, and the list of its chats."""

    page: Page
    parts: ChatParts
    sidebar: SidebarParts

    @property
    def outputs(self) -> list[Any]:
        return [*self.parts, *self.sidebar]

    def settled(self, session: str, **changes: Any) -> Updates:
        """Return the tab as the chat is now; `changes` name parts and their values."""
        parts, conversation = self.parts, self.page.conversations.of(session)
        visit = self.page.conversations.visit(session)
        value = chatbot_value(conversation, self.page.role, without_running=True, most=visit.turns)
        drawn = {
            parts.welcome: welcome(self.page, conversation),
            parts.turns: value,
            parts.older: self._older(conversation, visit.turns),
            parts.asked: "",
            parts.live: "",
            parts.live_status: "",
            parts.prompt: "",
            parts.notice: notice(conversation.problem),
            parts.overflow: conversation.overflow,
            parts.key: visit.key,
            parts.chat: conversation.id,
            parts.answering: answering(conversation),
            parts.meter_due: self.meter_due(conversation),
            self.sidebar.list: chat_list(self.page, session),
        }
        return drawn | self.buttons(conversation) | {getattr(parts, name): value for name, value in changes.items()}

    def asked(self, conversation: Conversation, **changes: Any) -> Updates:
        """Return the tab as an answer begins to a message that alone is new: live.js draws both, and the chat stays.

        To draw the chat anew takes the longer the longer it is, and would hold up the answer's first words.
        """
        parts = self.parts
        drawn = {parts.welcome: "", parts.notice: "", parts.answering: answering(conversation, more="asked")}
        return drawn | self.buttons(conversation) | {getattr(parts, name): value for name, value in changes.items()}

    def opened(self, session: str, **changes: Any) -> Updates:
        """Return the tab after another chat was opened in it."""
        conversation = self.page.conversations.of(session)
        system_prompt = conversation.system_prompt if self.page.for_owner else ""
        closed = {self.sidebar.notice: "", self.sidebar.title: gr.update(elem_classes=shown(False))}
        return self.settled(session, system_prompt=system_prompt, **changes) | closed

    def meter_due(self, conversation: Conversation) -> str:
        """Return a text that changes with everything that the context's tokens depend on."""
        status = self.page.forge.status
        return (
            f"{conversation.state} {conversation.running is not None} {status.model} {status.since} {status.version}"
        )

    def _older(self, conversation: Conversation, most: int) -> Any:
        hidden = len(conversation.turns) - most
        return gr.update(value=f"Show older messages ({hidden:,})", elem_classes=shown(hidden > 0))

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
        session: str,
        begin: Callable[[], Generation | None],
        box: str = "",
        written: str = "",
        drawn: str = "",
        **changes: Any,
    ) -> AsyncIterator[Updates]:
        """Begin an answer, which live.js then draws; where it cannot begin, say why and leave everything as it was.

        Args:
            box: what stands in the message box and must not be overwritten.
            written: what the visitor wrote elsewhere, and finds in the message box where it cannot be used.
            drawn: answering() as the page had it, by which it is known whether the page shows all that was before.
        """
        before = answering(self.page.conversations.of(session))
        ended: Begun | None = None
        async with self.page.conversations.visit(session).drawing:
            try:
                generation = begin()
            except JustSent:
                pass
            except AnswerRunning as running:
                yield {self.parts.notice: notice(f"{running} Your message stays here.", "hint")}
            except LlamaForgeError as error:
                restored = {"input": written} if written and not box.strip() else {}
                yield self.settled(session, **restored) | self.problem(error)
            else:
                conversation = self.page.conversations.of(session)
                if generation is not None and conversation.running is None:
                    ended = conversation.begun
                alone = conversation.begun is not None and bool(conversation.begun.asked)
                if alone and generation is not None and not ended and drawn == before:
                    yield self.asked(conversation, **changes)
                else:
                    yield self.settled(session, **changes)
        if ended is not None:
            async for updates in self.finish(session, ended.number, box):
                yield updates
        yield self.labels()

    async def finish(self, session: str, number: int, box: str) -> AsyncIterator[Updates]:
        """Draw the chat after its last answer; that answer too, as long as it is written, for a page without stream.

        Args:
            number: of the answer; there is nothing to draw where another one has begun since.
        """
        conversation = self.page.conversations.of(session)
        begun = conversation.begun
        if begun is None or begun.number != number:
            return
        if conversation.running is not None:
            visit = self.page.conversations.visit(session)
            value = chatbot_value(conversation, self.page.role, without_running=True, most=visit.turns)
            told = {self.parts.answering: answering(conversation, more="by events"), self.parts.asked: ""}
            yield {self.parts.turns: value} | told | self.buttons(conversation)
            async for live in self._drawn(conversation, begun):
                if self.page.conversations.of(session) is not conversation or conversation.begun is not begun:
                    return  # another chat was opened meanwhile, or another answer begun
                yield live
        async with self.page.conversations.visit(session).drawing:
            if self.page.conversations.of(session) is not conversation or conversation.begun is not begun:
                return
            written = conversation.forget_failed()
            conversation.settle()
            restored = {"input": written} if written and not box.strip() else {}
            ending = self._ending(begun.generation) or notice(conversation.problem)
            yield self.settled(session, notice=ending, **restored)
        yield self.labels()

    async def _drawn(self, conversation: Conversation, begun: Begun) -> AsyncIterator[Updates]:
        """Draw an answer as it is written; its words are kept before they are shown."""
        buttons = self.buttons(conversation)
        async for frame in frames(self.page.forge, begun.generation, notes=self.page.for_owner):
            await asyncio.to_thread(conversation.journal, begun.generation, frame.text, frame.reasoning)
            live = {self.parts.live: live_text(frame, begun.earlier), self.parts.live_status: live_status(frame)}
            yield live | buttons

    def _ending(self, generation: Generation) -> str:
        """Return what is to be said of an answer's end: an error, a limit of time, or nothing."""
        result = generation.result
        error = result.error if result is not None else None
        if error is not None:
            details = error.details if isinstance(error, LlamaForgeError) and self.page.for_owner else ""
            return notice(self.page.sentence(error), details=details)
        # The engine's clock for it starts a moment before the answer's own.
        limit = self.page.longest
        late = result is not None and limit is not None and result.seconds >= limit - 0.1
        text = f"Answers to guests end after {self.page.longest} seconds. Press Continue to read on."
        return notice(text, "hint") if late else ""

    def told(self, values: Updates, request: gr.Request) -> Conversation:
        """Return the chat that the visitor sees, with the system prompt as it stands in its box.

        Raises:
            SessionEnded: that chat is gone.
        """
        session, parts = session_of(request), self.parts
        conversation = self.page.conversations.shown(session, values[parts.key] or "", values[parts.chat] or "")
        self.tell(session, conversation, values[parts.system_prompt])
        return conversation

    def tell(self, session: str, conversation: Conversation, system_prompt: str | None) -> None:
        """Give a chat its system prompt, a guest's the owner's, and what the loaded model can do.

        Only what was typed in this tab counts: another one may have changed it since this one was drawn.
        """
        visit, typed = self.page.conversations.visit(session), clean_text(system_prompt or "")
        if not self.page.for_owner:
            conversation.system_prompt = clean_text(self.page.guests.limits.system_prompt or "")
        elif typed != visit.system_prompt:
            conversation.system_prompt = visit.system_prompt = typed
        conversation.sees_images = self.page.forge.status.sees_images

    def start(self, conversation: Conversation, request: gr.Request) -> Start:
        """Return what starts an answer with this chat's parameters, a guest's within the limits for guests."""
        overflow = conversation.overflow
        if not self.page.for_owner:
            visitor = self.page.conversations.key_of(session_of(request))
            return lambda messages: self.page.guests.answer(visitor, messages, overflow)
        parameters = self.page.overrides(request, self.page.forge.status.model or "", "generate")
        return lambda messages: self.page.forge.chat_stream(messages, parameters, overflow=overflow)

    def problem(self, error: LlamaForgeError) -> Updates:
        """Return an error as a sentence above the box."""
        return {self.parts.notice: notice(self.page.sentence(error))}


def build_chat_tab(page: Page, blocks: gr.Blocks, sidebar: SidebarParts) -> ChatTab:
    """Build the tab's components and their handlers."""
    tab = ChatTab(page, build_chat_parts(page), sidebar)
    _wire_asking(tab)
    _wire_stop(tab)
    _wire_editing(tab)
    _wire_visit(tab, blocks)
    _wire_live(tab)
    _publish_endpoint(tab)
    return tab


def _wire_asking(tab: ChatTab) -> None:
    page, parts = tab.page, tab.parts
    whose: set[Any] = {parts.key, parts.chat, parts.system_prompt}

    @page.access.handler(page.role)
    async def send(values: Updates, request: gr.Request) -> AsyncIterator[Updates]:
        session = session_of(request)
        attached: tuple[Any, ...] = ()

        def begin() -> Generation:
            conversation = tab.told(values, request)
            text = _required(values[parts.input], or_pictures=bool(attached))
            if conversation.asked_just_now(text):
                raise JustSent("This message was just sent.")
            return conversation.ask(text, tab.start(conversation, request), *attached)

        try:
            attached = await asyncio.to_thread(_attached, page, values[parts.images])
        except CannotRead as error:
            yield tab.problem(error) | tab.labels()
            return
        drawn = str(values[parts.answering] or "")
        async for updates in tab.answer(session, begin, drawn=drawn, input="", images="", attached=""):
            yield updates

    @page.access.handler(page.role)
    async def regenerate(values: Updates, request: gr.Request) -> AsyncIterator[Updates]:
        def begin() -> Generation | None:
            conversation = tab.told(values, request)
            return conversation.regenerate(tab.start(conversation, request))

        async for updates in tab.answer(session_of(request), begin):
            yield updates

    gr.on(
        [parts.input.submit, parts.send.click],
        send,
        {parts.input, parts.images, parts.answering, *whose},
        tab.outputs,
        concurrency_limit=None,
        trigger_mode="multiple",  # else a message sent right after Stop is dropped; begin() knows a double click
        **unlisted(),
    )
    parts.regenerate.click(regenerate, whose, tab.outputs, concurrency_limit=None, **unlisted())


def _wire_stop(tab: ChatTab) -> None:
    page, parts = tab.page, tab.parts

    @page.access.handler(page.role)
    def stop(key: str, chat: str, request: gr.Request) -> None:
        conversation = page.conversations.still_shown(session_of(request), key or "", chat or "")
        if conversation is not None:
            conversation.stop()

    parts.stop.click(stop, [parts.key, parts.chat], None, **at_once())


def _attached(page: Page, images: str | None) -> tuple[Any, ...]:
    """Return the pictures of a message and their thumbnails."""
    if not images:
        return ()
    if not page.for_owner:
        raise CannotRead("Guests cannot send pictures.")
    pictures = read_pictures(images)
    return pictures, [thumbnail(picture) for picture in pictures]


def _wire_editing(tab: ChatTab) -> None:
    page, parts = tab.page, tab.parts
    whose: set[Any] = {parts.key, parts.chat, parts.system_prompt}

    @page.access.handler(page.role)
    async def edit(values: Updates, change: gr.EditData, request: gr.Request) -> AsyncIterator[Updates]:
        session = session_of(request)
        index = change.index if isinstance(change.index, int) else change.index[0]
        written = exact(str(change.value))

        def begin() -> Generation | None:
            conversation = tab.told(values, request)
            messages = shown_messages(conversation, page.role, most=page.conversations.visit(session).turns)
            text = _required(written)
            if not (0 <= index < len(messages) and messages[index].editable):
                raise GenerationError("Only messages can be edited.")
            if exact(str(change.previous_value)) != conversation.turns[messages[index].turn].text:
                raise GenerationError("This chat was changed in another window. It is drawn anew; edit it again.")
            return conversation.edit(messages[index].turn, text, tab.start(conversation, request))

        box = values[parts.input] or ""
        async for updates in tab.answer(session, begin, box, written):
            yield updates

    @page.access.handler(page.role)
    def undo(values: Updates, request: gr.Request) -> Updates:
        text = tab.told(values, request).undo()
        # A message that is being written is not overwritten by the one that comes back.
        restored = {} if (values[parts.input] or "").strip() else {"input": text}
        return tab.settled(session_of(request), **restored)

    @page.access.handler(page.role)
    def choose_overflow(choice: str, request: gr.Request) -> Updates:
        conversation = page.conversation(request)
        conversation.overflow = "drop" if choice == "drop" else "refuse"
        conversation.save_settings()
        return {parts.meter_due: f"{tab.meter_due(conversation)} {conversation.overflow}"}

    parts.turns.edit(edit, {parts.input, *whose}, tab.outputs, concurrency_limit=None, **unlisted())
    parts.undo.click(undo, {parts.input, *whose}, tab.outputs, **at_once())
    parts.overflow.input(choose_overflow, parts.overflow, parts.meter_due, **at_once())
    attached = [parts.input, parts.images, parts.attached, parts.notice]
    sees = "true" if page.for_owner else "false"
    js = f"(text, images) => window.llamaforge.attach(text, images, {sees})"
    # What is typed is kept by page.js itself; this is for what the server puts into the box.
    parts.input.change(None, parts.input, None, js="(text) => window.llamaforge.keepDraft(text)")
    parts.attach.click(None, [parts.input, parts.images], attached, js=js)


def _wire_live(tab: ChatTab) -> None:
    """Let live.js draw the answer being written, without asking the server, and say when there is no more to read."""
    page, parts = tab.page, tab.parts
    number = gr.Number(visible="hidden")

    @page.access.handler(page.role)
    async def finish(
        number: float | None, chat: str, key: str, box: str | None, request: gr.Request
    ) -> AsyncIterator[Updates]:
        session = session_of(request)
        if page.conversations.still_shown(session, key or "", chat or "") is not None:
            async for updates in tab.finish(session, int(number or 0), box or ""):
                yield updates

    end = gr.Button(elem_id="live-end", elem_classes=shown(False))
    told = "(_, __, ...others) => [...window.llamaforge.finished, ...others]"
    chat = gr.Textbox(visible="hidden")
    values = [number, chat, parts.key, parts.input]
    end.click(finish, values, tab.outputs, js=told, concurrency_limit=None, trigger_mode="multiple", **unlisted())
    draw = gr.Button(elem_id="live-draw", elem_classes=shown(False))
    drawing = "() => window.llamaforge.liveTurn()"
    shown_live = [parts.asked, parts.live, parts.live_status]
    draw.click(None, None, shown_live, js=drawing, trigger_mode="multiple", **unlisted())
    parts.answering.change(None, parts.answering, None, js="(told) => window.llamaforge.follow(told)")


def _wire_visit(tab: ChatTab, blocks: gr.Blocks) -> None:
    page = tab.page
    tab_key = gr.Textbox(visible="hidden")

    @page.access.handler(page.role)
    async def arrive(key: str, request: gr.Request) -> AsyncIterator[Updates]:
        """A page was opened or reloaded: show what this tab's chat holds."""
        session = session_of(request)
        conversation = page.conversations.attach(session, str(key))
        system_prompt = conversation.system_prompt if page.for_owner else ""
        yield tab.settled(session, system_prompt=system_prompt)
        yield tab.labels()

    @page.access.handler("guest")
    def leave(request: gr.Request) -> None:
        page.conversations.leave(session_of(request))

    blocks.load(
        arrive, tab_key, tab.outputs, js="() => window.llamaforge.tabKey()", concurrency_limit=None, **unlisted()
    )
    blocks.unload(leave)


def _publish_endpoint(tab: ChatTab) -> None:
    """Publish /chat for gradio_client: a message in, the answer so far out, one conversation a visitor."""
    page = tab.page

    @page.access.handler(page.role)
    async def chat(message: str, request: gr.Request) -> AsyncIterator[str]:
        conversation = page.conversation(request)
        tab.tell(session_of(request), conversation, "")
        generation = conversation.ask(_required(message), tab.start(conversation, request))
        try:
            async for frame in frames(page.forge, generation, notes=page.for_owner):
                if frame.text:
                    yield frame.text
        finally:
            generation.stop()
        if generation.result is not None and generation.result.error is not None:
            conversation.forget_failed()
            raise generation.result.error
        yield generation.text

    api(chat, api_name="chat", concurrency_limit=None)


def answering(conversation: Conversation, *, more: str = "") -> str:
    """Return what live.js follows an answer by: the chat, the number of its last answer, and whether it runs.

    Args:
        more: "asked" where the message that it answers is to be drawn with it, "by events" where it is drawn by those.
    """
    number = conversation.begun.number if conversation.begun is not None else 0
    state = "running" if conversation.running is not None else "ended"
    return f"{conversation.id} {number} {state} {more}".strip()


def session_of(request: gr.Request) -> str:
    """Return what names the visitor's open page."""
    return request.session_hash or ""


def _required(text: str | None, *, or_pictures: bool = False) -> str:
    text = clean_text(text or "")
    if not text.strip() and not or_pictures:
        raise EmptyPrompt("Write a message first.")
    return text
