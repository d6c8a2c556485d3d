"""What the small buttons in the chat and in the list of chats do: one event, and a function for each act."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from pydantic import BaseModel, ConfigDict, ValidationError

from llamaforge import LlamaForgeError, Parameters, describe, get_backend, validate

from .chat_tab import ChatTab, Updates, session_of
from .conversation import Conversation
from .convert import notice
from .page import at_once, shown, unlisted
from .sidebar import chat_list, undo_notice
from .transfer import as_json, as_markdown, file_name, read_chats
from .turn import Turn
from .visits import LISTED, OLDER_TURNS, ChatGone


class Act(BaseModel):
    """What a button of the page asks for: the data attributes that turns.py and sidebar.py give it."""

    model_config = ConfigDict(extra="ignore")
    act: str = ""
    turn: int = 0
    step: int = 0
    chat: str = ""


@dataclass(frozen=True, slots=True)
class Acted:
    """The tab, the visitor and the chat that an act is about."""

    tab: ChatTab
    session: str
    shown: Conversation
    act: Act
    file: str = ""  # that the page's own script has read

    @property
    def named(self) -> Conversation:
        """The chat that the act names, which may be another than the one that is shown."""
        found = self.tab.page.conversations.find(self.session, self.act.chat)
        if found is None:
            raise ChatGone("This chat is not there any more.")
        return found

    def turn(self) -> Turn:
        """Return the turn that the act names."""
        found = next((turn for turn in self.shown.turns if turn.id == self.act.turn), None)
        if found is None:
            raise ChatGone("This message is not shown any more.")
        return found

    def settled(self, **changes: Any) -> Updates:
        return self.tab.settled(self.session, **changes)

    def opened(self, **changes: Any) -> Updates:
        return self.tab.opened(self.session, **changes)

    def said(self, markup: str) -> Updates:
        """Return a line above the list of chats."""
        return {self.tab.sidebar.notice: markup}


def _open(acted: Acted) -> Updates:
    if acted.tab.page.conversations.open(acted.session, acted.act.chat) is None:
        raise ChatGone("This chat is not there any more.")
    return acted.opened()


def _branch(acted: Acted) -> Updates:
    branch = acted.shown.branch(acted.act.turn)
    if branch is None:
        raise ChatGone("Wait for the end of the answer, then branch from it.")
    acted.tab.page.conversations.show(acted.session, branch)
    return acted.opened(notice=notice("A new chat that begins with all of the above.", "hint"))


def _switch(acted: Acted) -> Updates:
    acted.shown.switch(acted.act.turn, 1 if acted.act.step > 0 else -1)
    return acted.settled()


def _older(acted: Acted) -> Updates:
    acted.tab.page.conversations.visit(acted.session).turns += OLDER_TURNS
    return acted.settled()


def _more(acted: Acted) -> Updates:
    acted.tab.page.conversations.visit(acted.session).listed += LISTED
    return acted.settled()


def _pin(acted: Acted) -> Updates:
    acted.named.pin(acted.act.act == "pin")
    return acted.settled()


def _rename(acted: Acted) -> Updates:
    title = gr.update(value=acted.named.title, elem_classes=shown(True))
    return {acted.tab.sidebar.title: title}


def _delete(acted: Acted) -> Updates:
    title, conversations = acted.named.title, acted.tab.page.conversations
    if not conversations.delete(acted.session, acted.act.chat):
        raise ChatGone("This chat is not there any more.")
    return acted.opened() | acted.said(undo_notice(title, acted.act.chat))


def _restore(acted: Acted) -> Updates:
    if not acted.tab.page.conversations.restore(acted.session, acted.act.chat):
        raise ChatGone("This chat can no longer be brought back.")
    return _open(acted)


def _prompt(acted: Acted) -> Updates:
    turn, conversation, forge = acted.turn(), acted.shown, acted.tab.page.forge
    place = conversation.turns.index(turn)
    messages = conversation.messages(conversation.turns[:place])
    dropped = turn.result.dropped if turn.result is not None else 0
    system = sum(message.role == "system" for message in messages)
    prompt = forge.prompt(messages[:system] + messages[system + dropped :])
    if prompt is None:
        raise LlamaForgeError("Load a model to see the prompt as it reads it; it must not be busy.")
    model = forge.status.model or ""
    hint = "" if model == turn.model else f" The answer was written by {turn.model}."
    count = f" · {prompt.tokens:,} tokens" if prompt.tokens is not None else ""
    head = html.escape(f"The prompt as {model} reads it{count}.{hint}")
    close = '<button type="button" data-act="close">Close</button>'
    text = html.escape(prompt.text)
    return {
        acted.tab.parts.prompt: f'<section class="lf-prompt" aria-label="The prompt"><p>{head} {close}</p>'
        f'<pre tabindex="0">{text}</pre></section>'
    }


def _close(acted: Acted) -> Updates:
    return {acted.tab.parts.prompt: ""}


def _detach(acted: Acted) -> Updates:
    return {acted.tab.parts.images: "", acted.tab.parts.attached: ""}


def _settings(acted: Acted) -> Updates:
    """Let the settings of an answer hold for this chat, as far as the loaded model's backend knows them."""
    turn, page = acted.turn(), acted.tab.page
    name = page.forge.status.model or turn.model
    schema = get_backend(page.forge.model(name).backend).Parameters
    given = turn.about.get("settings") or {}
    taken = {key: value for key, value in given.items() if _fits(schema, key, value)}
    acted.shown.parameters[name] = dict(taken)
    acted.shown.origins[name] = dict.fromkeys(taken, f"the answer of {turn.model}")
    acted.shown.file_said[name] = {key: page.forge.model(name).parameters.get(key) for key in taken}
    acted.shown.given += 1
    acted.shown.save_settings()
    page.forge.changed()  # every open page looks, and draws its controls anew
    left = [key for key in given if key not in taken]
    without = f" These do not fit {name}: {', '.join(left)}." if left else ""
    told = ", ".join(f"{key} {value}" for key, value in taken.items())
    return {acted.tab.parts.notice: notice(f"These hold for this chat now: {told}.{without}", "hint")}


def _fits(schema: type[Parameters], name: str, value: Any) -> bool:
    """Tell whether a value of an answer, which may have come from a file, is one that the page may set."""
    info = describe(schema).get(name)
    if info is None or info.file_only or info.secret:
        return False
    try:
        validate(schema, {name: value})
    except LlamaForgeError:
        return False
    return True


def _import(acted: Acted) -> Updates:
    conversations = acted.tab.page.conversations
    visitor = conversations.visit(acted.session).visitor
    read = read_chats(acted.file)
    for one in reversed(read):  # so that the first one is the newest
        conversations.history.add_tree(visitor, one.chat, one.messages)
    conversations.open(acted.session, read[0].chat.id)
    many = f"{len(read):,} chats were" if len(read) > 1 else "One chat was"
    return acted.opened() | acted.said(notice(f"{many} read in.", "hint"))


ACTS: Mapping[str, Callable[[Acted], Updates]] = {
    "open": _open,
    "branch": _branch,
    "switch": _switch,
    "older": _older,
    "more": _more,
    "pin": _pin,
    "unpin": _pin,
    "rename": _rename,
    "delete": _delete,
    "restore": _restore,
    "prompt": _prompt,
    "close": _close,
    "detach": _detach,
    "settings": _settings,
    "import": _import,
}
OWNERS = ("prompt", "settings", "import")  # the last could fill the memory with what was never said here


def wire_acts(tab: ChatTab) -> None:
    """Wire the one event behind every small button, and the sidebar's own components."""
    page, parts = tab.page, tab.parts
    asked, file = gr.Textbox(visible="hidden"), gr.Textbox(visible="hidden")
    button = gr.Button(elem_id="act", elem_classes=shown(False))

    @page.access.handler(page.role)
    async def act(  # noqa: PLR0913 - the values in the order that page.js hands them over
        asked: str, file: str, key: str, chat: str, system_prompt: str, box: str, request: gr.Request
    ) -> AsyncIterator[Updates]:
        session = session_of(request)
        try:
            wanted = Act.model_validate_json(asked or "{}")
            conversation = page.conversations.shown(session, key or "", chat or "")
            if wanted.act == "continue":
                tab.tell(session, conversation, system_prompt)
                async for updates in tab.answer(
                    session, lambda: conversation.go_on(tab.start(conversation, request)), box
                ):
                    yield updates
            elif wanted.act in ACTS and (page.for_owner or wanted.act not in OWNERS):
                acted = Acted(tab, session, conversation, wanted, file or "")
                yield await asyncio.to_thread(ACTS[wanted.act], acted)  # a file may be long, and a worker slow
        except ValidationError:
            yield tab.problem(LlamaForgeError("This page is older than the program. Load it again."))
        except LlamaForgeError as error:
            yield tab.settled(session) | {parts.notice: notice(page.sentence(error))}

    values = [asked, file, parts.key, parts.chat, parts.system_prompt, parts.input]
    js = "(_, __, ...others) => [window.llamaforge.act, window.llamaforge.takeFile(), ...others]"
    button.click(act, values, tab.outputs, js=js, concurrency_limit=None, trigger_mode="multiple", **unlisted())
    older = "() => window.llamaforge.ask({ act: 'older' })"
    parts.older.click(None, None, None, js=older)
    _wire_sidebar(tab)
    _wire_export(tab)


def _wire_sidebar(tab: ChatTab) -> None:
    page, sidebar = tab.page, tab.sidebar

    @page.access.handler(page.role)
    def new_chat(request: gr.Request) -> Updates:
        page.conversations.new(session_of(request))
        return tab.opened(session_of(request))

    @page.access.handler(page.role)
    def temporary_chat(request: gr.Request) -> Updates:
        page.conversations.new(session_of(request), temporary=True)
        return tab.opened(session_of(request))

    @page.access.handler(page.role)
    def search(text: str, request: gr.Request) -> Updates:
        visit = page.conversations.visit(session_of(request))
        visit.search, visit.listed = (text or "")[:200], LISTED
        return {sidebar.list: chat_list(page, session_of(request))}

    @page.access.handler(page.role)
    def rename(title: str, request: gr.Request) -> Updates:
        page.conversation(request).rename(title or "")
        return {
            sidebar.list: chat_list(page, session_of(request)),
            sidebar.title: gr.update(elem_classes=shown(False)),
        }

    gr.on([tab.parts.new.click, sidebar.new.click], new_chat, None, tab.outputs, **at_once())
    sidebar.temporary.click(temporary_chat, None, tab.outputs, **at_once())
    sidebar.search.change(search, sidebar.search, sidebar.list, trigger_mode="always_last", **at_once())
    sidebar.title.submit(rename, sidebar.title, [sidebar.list, sidebar.title], **at_once())


def _wire_export(tab: ChatTab) -> None:
    """Wire what leaves as a file: the server gives a text and a name, the page saves it on the visitor's side."""
    page = tab.page
    asked, button = gr.Textbox(visible="hidden"), gr.Button(elem_id="export", elem_classes=shown(False))
    text, name = gr.Textbox(visible="hidden"), gr.Textbox(visible="hidden")

    @page.access.handler(page.role)
    def export(asked: str, request: gr.Request) -> Updates:
        wanted, session = Act.model_validate_json(asked or "{}"), session_of(request)
        if wanted.act == "json-all":
            return {text: as_json(page.conversations.every(session), page.role), name: file_name("all chats", "json")}
        if wanted.act == "markdown-all":
            every = "\n---\n\n".join(map(as_markdown, page.conversations.every(session)))
            return {text: every, name: file_name("all chats", "md")}
        found = page.conversations.find(session, wanted.chat)
        if found is None:
            raise ChatGone("This chat is not there any more.")
        if wanted.act == "json":
            return {text: as_json([found], page.role), name: file_name(found.title, "json")}
        return {text: as_markdown(found), name: file_name(found.title, "md")}

    js = "() => [window.llamaforge.act]"
    save = "(text, name) => window.llamaforge.download(text, name)"
    button.click(export, asked, [text, name], js=js, **at_once()).then(None, [text, name], None, js=save)
