"""The owner's bar of a page that has guests or a login: who can come in, the switch that closes it, the way out."""

from __future__ import annotations

import html
import os
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from .convert import notice
from .gate import OWNER_PAGE
from .page import Page, at_once

Updates = dict[Any, Any]

LOG_OUT = f'<form id="log-out-form" method="post" action="{OWNER_PAGE}/logout" hidden></form>'
SUBMIT = "() => document.getElementById('log-out-form').submit()"
TEMPORARY_DISK = (
    "This Space's disk is temporary: changes vanish on restart. Copy a model's YAML into your repository to keep it."
)


@dataclass(frozen=True, slots=True)
class OwnerBar:
    """Draws who may come in; without parts where nobody else can."""

    page: Page
    line: gr.HTML | None = None
    switch: gr.Button | None = None
    parts: list[Any] = field(default_factory=list)

    def view(self) -> Updates:
        """Return the bar as things are now."""
        if self.line is None:
            return {}
        updates: Updates = {self.line: self._line()}
        if self.switch is not None:
            label = "Close to guests" if self.page.guests.open else "Open to guests"
            updates[self.switch] = gr.update(value=label, interactive=self.page.guests.may_open)
        return updates

    def _line(self) -> str:
        guests = self.page.guests
        if self.switch is None:
            return '<div class="lf-status">Only you can use this page.</div>'
        if not guests.open:
            text = "Closed to guests." if guests.may_open else "settings.yaml closes this page to guests."
            return f'<div class="lf-status"><span class="lf-dot lf-empty"></span>{text}</div>'
        where = f" at {html.escape(guests.address)}" if guests.address else ""
        return f'<div class="lf-status"><span class="lf-dot lf-ready"></span>Open: guests can chat{where}</div>'


def build_owner_bar(page: Page) -> OwnerBar:
    """Build the bar where the page is not this computer's alone, and its switch."""
    if page.access.local:
        return OwnerBar(page)
    with gr.Row(elem_id="owner-bar"):
        line = gr.HTML(elem_id="guests-line")
        switch = gr.Button("Close to guests", elem_id="close-to-guests", size="sm", scale=0, min_width=140)
        log_out = gr.Button("Log out", elem_id="log-out", size="sm", scale=0, min_width=80)
    gr.HTML(LOG_OUT, visible="hidden")
    switch.visible = page.access.public
    if "SPACE_ID" in os.environ:
        gr.HTML(notice(TEMPORARY_DISK, "hint"), elem_id="temporary-disk")
    bar = OwnerBar(page, line, switch if page.access.public else None, [line, switch])

    @page.access.handler("owner")
    def turn(request: gr.Request) -> Updates:
        if page.guests.open:
            page.guests.close()
        else:
            page.guests.reopen()
        page.forge.changed()
        return bar.view()

    switch.click(turn, None, bar.parts, **at_once())
    log_out.click(None, js=SUBMIT)
    return bar
