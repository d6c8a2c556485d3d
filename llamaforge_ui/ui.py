"""Builds the page: the bar, the tabs, and the wires between them."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr
from starlette.routing import Route

from llamaforge import LlamaForge

from .access import Access
from .chat_acts import wire_acts
from .chat_tab import ChatTab, build_chat_tab, session_of
from .context_meter import wire_meter
from .convert import status_line
from .guests import Guests
from .history import History
from .live_stream import live_routes
from .model_bar import POLL_SECONDS, ModelBar, build_guest_bar, build_model_bar, choices, first_choice
from .models_tab import ModelsTab, build_models_tab
from .owner_bar import OwnerBar, build_owner_bar
from .page import Page, at_once
from .parameters_tab import ParametersTab, build_parameters_tab, drawn_from
from .register_form import USUAL_BACKEND
from .sidebar import SidebarParts, build_sidebar
from .visits import Conversations
from .welcome import WAYS, welcome

Updates = dict[Any, Any]

CLOSED = '<div class="lf-status"><span class="lf-dot lf-empty"></span>closed to guests</div>'


class Pages(NamedTuple):
    """The page at the root, and the owner's where that is another."""

    front: gr.Blocks
    owner: gr.Blocks | None
    guests: Guests
    conversations: tuple[Conversations, ...]
    routes: list[Route]

    def close(self) -> None:
        """Stop every answer and keep what it says; for the end of the program."""
        for conversations in self.conversations:
            conversations.close()


def build_pages(forge: LlamaForge, access: Access, history: History | None = None) -> Pages:
    """Build what visitors see: one page where everybody is the owner, else the guests' and the owner's.

    The guests' page has nothing of the owner's in it, neither controls nor events.

    Args:
        history: where the owner's chats are kept; in memory by default, as guests' are always.
    """
    guests = Guests(forge)
    owners = Conversations(history, owner="owner")
    for_owner = Page(forge, access, guests, "owner", owners)
    owner, routes = _build(for_owner), live_routes(for_owner)
    if access.local:
        return Pages(owner, None, guests, (owners,), routes)
    visitors = Conversations(most=lambda: guests.limits.chats)
    for_guests = Page(forge, access, guests, "guest", visitors)
    return Pages(_build(for_guests), owner, guests, (owners, visitors), routes + live_routes(for_guests))


def _build(page: Page) -> gr.Blocks:
    blocks = gr.Blocks(title="LlamaForge", analytics_enabled=False, fill_width=True)
    with blocks:
        if page.for_owner:
            _build_owner_page(page, blocks)
        else:
            _build_guest_page(page, blocks)
    blocks.space_id = None  # on a Space, Gradio's page would ask other hosts for a header and fonts
    # /run would bypass the queue and its limits.
    blocks.queue(api_open=False, default_concurrency_limit=40, max_size=64 if page.for_owner else 16)
    return blocks


def _build_chat(page: Page, blocks: gr.Blocks, sidebar: SidebarParts) -> ChatTab:
    chat = build_chat_tab(page, blocks, sidebar)
    wire_acts(chat)
    wire_meter(chat)
    return chat


def _build_owner_page(page: Page, blocks: gr.Blocks) -> None:
    sidebar = build_sidebar(page)
    with gr.Column(elem_id="page"):
        sharing = build_owner_bar(page)
        bar = build_model_bar(page)
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab("Chat", id="chat"):
                chat = _build_chat(page, blocks, sidebar)
            with gr.Tab("Models", id="models"):
                models = build_models_tab(page, bar)
            with gr.Tab("Parameters", id="parameters"):
                parameters = build_parameters_tab(page, bar)
    _wire_way_to_a_model(page, tabs, models)
    _wire_changes(page, blocks, Shown(sharing, bar, models, parameters, chat))


def _wire_way_to_a_model(page: Page, tabs: gr.Tabs, models: ModelsTab) -> None:
    """Lead from an empty chat to the form that registers a model, with the backend that was asked for."""
    form = models.form
    go, wished = gr.Button(elem_id="go-register", elem_classes=["lf-off"]), gr.Textbox(visible="hidden")

    @page.access.handler("owner")
    def lead(backend: str | None, request: gr.Request) -> Updates:
        wanted = backend if backend in WAYS else USUAL_BACKEND
        return form.shape(wanted) | {form.parts.backend: wanted, tabs: gr.Tabs(selected="models")}

    js = "() => window.llamaforge.backend"
    led = go.click(lead, wished, [tabs, *form.parts], js=js, **at_once())
    led.then(None, None, None, js="() => document.querySelector('#register-path :is(textarea, input)')?.focus()")


class Shown(NamedTuple):
    """The parts of the owner's page that another page's changes are drawn in."""

    sharing: OwnerBar
    bar: ModelBar
    models: ModelsTab
    parameters: ParametersTab
    chat: ChatTab


def _wire_changes(page: Page, blocks: gr.Blocks, shown: Shown) -> None:
    """Let every open page see what another one changed: each asks now and then, and mostly hears that nothing did."""
    sharing, bar, models, parameters, chat = shown
    seen = gr.State(-1)
    outputs = [
        *sharing.parts,
        *bar.parts,
        models.parts.list,
        models.parts.card,
        models.parts.plugins,
        models.parts.actions,
        seen,
        parameters.drawn_from,
        chat.parts.meter_due,
        chat.parts.welcome,
    ]

    @page.access.handler("owner")
    def look(values: Updates, request: gr.Request) -> Updates:
        if page.forge.status.version == values[seen]:
            loading = page.forge.status.state == "loading"
            return {bar.parts.status: bar.status_html() if loading else gr.skip()}
        return view(values[bar.parts.select], request)

    @page.access.handler("owner")
    def open_page(request: gr.Request) -> Updates:
        chosen = first_choice(page)
        begun = {bar.parts.select: gr.update(choices=choices(page), value=chosen)}  # there may be more since the start
        return view(chosen, request) | begun | models.form.shape(USUAL_BACKEND)

    def view(chosen: str | None, request: gr.Request) -> Updates:
        # First, so that a change meanwhile is seen the next time.
        drawn: Updates = {seen: page.forge.status.version}
        if page.conversations.arrived(session_of(request)):  # else it is drawn once the chat is known
            drawn[parameters.drawn_from] = drawn_from(page, chosen, request)
            drawn[chat.parts.meter_due] = chat.meter_due(page.conversation(request))
            drawn[chat.parts.welcome] = welcome(page, page.conversation(request))
        return sharing.view() | bar.view() | models.view(chosen) | drawn

    @page.access.handler("owner")
    def follow_chat(chosen: str | None, request: gr.Request) -> Any:
        known = page.conversations.arrived(session_of(request))
        coming = chosen is None and first_choice(page) is not None  # open_page chooses it, and it is drawn then
        return drawn_from(page, chosen, request) if known and not coming else gr.skip()

    # At once with what is loaded, not at the next look: controls that are drawn anew lose what is typed into them.
    changes = [chat.parts.chat.change, bar.parts.status.change]
    gr.on(changes, follow_chat, bar.parts.select, parameters.drawn_from, trigger_mode="always_last", **at_once())
    gr.Timer(POLL_SECONDS).tick(look, {seen, bar.parts.select}, outputs, **at_once())
    blocks.load(open_page, None, [*outputs, *models.form.parts], **at_once())


def _build_guest_page(page: Page, blocks: gr.Blocks) -> None:
    sidebar = build_sidebar(page)
    with gr.Column(elem_id="page"):
        status = build_guest_bar(page)
        chat = _build_chat(page, blocks, sidebar)

    @page.access.handler("guest")
    def look(request: gr.Request) -> str:
        return status_line(page.forge.status, 0.0, public=True) if page.guests.open else CLOSED

    @page.access.handler("guest")
    def greet(request: gr.Request) -> Any:
        """Another model may offer other questions."""
        known = page.conversations.arrived(session_of(request))  # else it is drawn once the chat is known
        return welcome(page, page.conversation(request)) if known else gr.skip()

    gr.Timer(POLL_SECONDS).tick(look, None, status, **at_once())
    blocks.load(look, None, status, **at_once())
    status.change(greet, None, chat.parts.welcome, **at_once())
