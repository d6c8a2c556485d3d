"""The plugins of the chosen model: each is switched on or off, in the model's file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from llamaforge import LlamaForgeError, PluginUse, hide_secrets

from .convert import notice
from .page import Page, at_once, shown

Updates = dict[Any, Any]

INFO = "Switched for this model, in its file; settings stand there too (Edit). They hold from the next message on."


def build_plugins_row() -> gr.CheckboxGroup:
    hidden = shown(False)
    return gr.CheckboxGroup(
        [], label="Plugins", info=INFO, elem_id="model-plugins", elem_classes=hidden, interactive=True
    )


def plugins_view(page: Page, name: str | None) -> Any:
    """Return the row as things are now, with a model chosen."""
    if name is None or page.forge.model(name).problem is not None:
        return gr.update(choices=[], value=[], elem_classes=shown(False))
    uses = page.forge.plugins(name)
    on = [use.name for use in uses if use.enabled]
    return gr.update(choices=[(_label(use), use.name) for use in uses], value=on, elem_classes=shown(True))


def wire_plugins_row(
    page: Page,
    row: gr.CheckboxGroup,
    models: gr.Radio,
    said: gr.HTML,
    outputs: list[Any],
    view: Callable[[str | None], Updates],
) -> None:
    """Let a click write the model's file, and the tab say what came of it."""

    @page.access.handler("owner")
    def switch(values: Updates, change: gr.EventData, request: gr.Request) -> Updates:
        # What was clicked, not all that is ticked: another window may have switched others meanwhile.
        name, plugin, on = values[models], str(change.value), bool(change.selected)
        try:
            page.forge.config.switch_plugin(name, plugin, on)
        except LlamaForgeError as error:
            return view(name) | {said: notice(f"Not saved. {error}")}
        page.forge.changed()
        return view(name) | {said: notice(f"{plugin} is {'on' if on else 'off'} for {name}.", "hint")}

    row.select(switch, {models}, outputs, **at_once())


def _label(use: PluginUse) -> str:
    about = f"broken: {use.problem}" if use.problem is not None else use.about
    return hide_secrets(f"{use.name} — {about}" if about else use.name)
