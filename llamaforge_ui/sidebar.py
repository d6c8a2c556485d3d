"""The list of a visitor's chats beside the page: find, open, rename, pin, delete, export, import."""

from __future__ import annotations

import html
import time
from typing import NamedTuple

import gradio as gr

from .history import MARK_BEGIN, MARK_END, Found
from .page import Page, shown

DAYS = ((1, "Today"), (2, "Yesterday"), (8, "Last seven days"), (31, "Last thirty days"))
NOTHING_YET = "Your chats will be listed here."
NOTHING_FOUND = "No chat has all of these words."


class SidebarParts(NamedTuple):
    """The components of the sidebar."""

    new: gr.Button
    temporary: gr.Button
    search: gr.Textbox
    notice: gr.HTML
    title: gr.Textbox
    list: gr.HTML


def build_sidebar(page: Page) -> SidebarParts:
    """Build the sidebar's components; the chat tab wires them."""
    # Closed at first: on a phone it would cover the page. page.js opens it where there is room beside the chat.
    with gr.Sidebar(elem_id="history", open=False, width=280):
        with gr.Row(elem_id="history-new"):
            new = gr.Button("New chat", elem_id="history-new-chat", size="sm", min_width=90)
            temporary = gr.Button("Temporary chat", elem_id="temporary-chat", size="sm", min_width=120)
        search = gr.Textbox(
            elem_id="history-search",
            label="Search in chats",
            show_label=False,
            placeholder="Search in chats",
            container=False,
            max_lines=1,
        )
        notice = gr.HTML(elem_id="history-notice", elem_classes="lf-notice")
        title = gr.Textbox(
            elem_id="chat-title",
            label="New title",
            max_lines=1,
            elem_classes=shown(False),
            info="Enter keeps it.",
        )
        chats = gr.HTML(elem_id="history-list")
        # All that guests write is temporary.
        temporary.visible = page.for_owner
        if not page.for_owner:
            gr.HTML('<p class="lf-small">Your chats are gone an hour after you close this page.</p>')
    return SidebarParts(new, temporary, search, notice, title, chats)


def chat_list(page: Page, session: str) -> str:
    """Return a visitor's chats as HTML: buttons to open them, and what can be done with the one that is shown."""
    visit, current = page.conversations.visit(session), page.conversations.of(session)
    found, searched = page.conversations.listed(visit), bool(visit.search.strip())
    parts = []
    if page.conversations.is_temporary(current):
        parts.append('<p class="lf-small">The chat that you see is temporary: it is kept nowhere.</p>')
    if not found:
        parts.append(f'<p class="lf-small">{NOTHING_FOUND if searched else NOTHING_YET}</p>')
    heading = ""
    items: list[str] = []
    for chat in found[: visit.listed]:
        if (group := "Pinned" if chat.pinned else _day(chat.changed)) != heading:
            heading = group
            items.append(f'<li class="lf-day">{heading}</li>')
        items.append(_item(chat, current=chat.id == current.id))
    parts.append(f"<ul>{''.join(items)}</ul>")
    if len(found) > visit.listed:
        parts.append(_act("more", "Show more"))
    files = [_act("import", "Import")] if page.for_owner else []
    if found and not searched:
        files.append(f"All chats: {_act('markdown-all', 'Markdown')}{_act('json-all', 'JSON')}")
    parts += [f'<p class="lf-files">{line}</p>' for line in files]
    return "".join(parts)


def undo_notice(title: str, chat: str) -> str:
    """Return the line that offers to bring a deleted chat back."""
    undo = f'<button type="button" data-act="restore" data-chat="{chat}">Undo</button>'
    return f'<div class="lf-hint" role="status"><p>Deleted “{html.escape(title)}”. {undo}</p></div>'


def _item(chat: Found, *, current: bool) -> str:
    title = html.escape(chat.title or "New chat")
    state = ' aria-current="page"' if current else ""
    pin = '<span class="lf-pin" role="img" aria-label="pinned"></span>' if chat.pinned else ""
    open_it = f'<button type="button" data-act="open" data-chat="{chat.id}"{state}>{pin}{title}</button>'
    snippet = f'<div class="lf-snippet">{_marked(chat.snippet)}</div>' if chat.snippet else ""
    acts = ""
    if current:
        named = [("rename", "Rename"), ("unpin" if chat.pinned else "pin", "Unpin" if chat.pinned else "Pin")]
        named += [("markdown", "Markdown"), ("json", "JSON"), ("delete", "Delete")]
        acts = f'<div class="lf-acts">{"".join(_act(act, text, chat.id) for act, text in named)}</div>'
    return f"<li>{open_it}{snippet}{acts}</li>"


def _act(act: str, text: str, chat: str = "") -> str:
    which = f' data-chat="{chat}"' if chat else ""
    return f'<button type="button" data-act="{act}"{which}>{text}</button>'


def _marked(snippet: str) -> str:
    escaped = html.escape(" ".join(snippet.split()))
    return escaped.replace(MARK_BEGIN, "<mark>").replace(MARK_END, "</mark>")


def _day(changed: float) -> str:
    """Return the part of the list that a chat stands in, by the days since it was changed."""
    midnight = time.mktime((*time.localtime()[:3], 0, 0, 0, 0, 0, -1))
    days = 1 if changed >= midnight else 2 + int((midnight - changed) // 86_400)
    return next((text for most, text in DAYS if days <= most), "Older")
