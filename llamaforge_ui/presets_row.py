"""The row of the Parameters tab that applies, saves and deletes presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr
from gradio.blocks import Block

from llamaforge import LlamaForgeError, PresetFit

from .convert import notice
from .model_bar import ModelBar
from .page import Page, at_once, unlisted

Updates = dict[Any, Any]


class PresetParts(NamedTuple):
    """The components of the row."""

    select: gr.Dropdown
    apply: gr.Button
    delete: gr.Button
    name: gr.Textbox
    save: gr.Button


@dataclass(frozen=True, slots=True)
class PresetsRow:
    """Draws the saved presets."""

    page: Page
    parts: PresetParts

    def view(self, chosen: str | None = None) -> Updates:
        """Return the list as things are now, with a preset chosen."""
        return {self.parts.select: gr.update(choices=_choices(self.page), value=chosen)}


def build_presets_row(page: Page) -> PresetsRow:
    """Build the row; it is wired by wire_presets."""
    # In one line without their labels, which remain for who listens to the page.
    plain: dict[str, Any] = {"show_label": False, "container": False, "scale": 1, "min_width": 100}
    with gr.Row(elem_id="presets"):
        with gr.Row(elem_classes="lf-presets"):
            gr.Markdown("Preset", container=False, elem_classes="lf-label")
            select = gr.Dropdown(_choices(page), value=None, elem_id="preset-select", label="Preset", **plain)
            apply = gr.Button("Apply", elem_id="apply-preset", size="sm", scale=0, min_width=70)
            delete = gr.Button("Delete", elem_id="delete-preset", size="sm", scale=0, min_width=70)
        with gr.Row(elem_classes="lf-presets"):
            named = "Name of a new preset"
            name = gr.Textbox(elem_id="preset-name", label=named, placeholder=named, max_lines=1, **plain)
            save = gr.Button("Save as preset", elem_id="save-preset", size="sm", scale=0, min_width=120)
    return PresetsRow(page, PresetParts(select, apply, delete, name, save))


def wire_presets(row: PresetsRow, bar: ModelBar, reasons: tuple[gr.State, gr.Textbox], line: gr.HTML) -> None:
    """Wire the row.

    Args:
        reasons: what the controls are drawn anew by: a count, and what changes when the page opens or files do.
        line: where a sentence stands.
    """
    _wire_list(row, reasons[1])
    _wire_apply(row, bar, reasons[0], line)
    _wire_save(row, bar, line)
    _wire_delete(row, line)


def _wire_list(row: PresetsRow, source: gr.Textbox) -> None:
    page, parts = row.page, row.parts

    @page.access.handler("owner")
    def list_presets(values: Updates, request: gr.Request) -> Updates:
        listed = gr.update(choices=_choices(page))
        if values[parts.select] not in page.forge.config.presets:  # else it is not touched: it may be another by now
            listed["value"] = None
        return {parts.select: listed}

    # Another window may have saved or deleted one since this one was opened.
    gr.on([source.change, parts.select.focus], list_presets, {parts.select}, parts.select, **at_once())


def _wire_apply(row: PresetsRow, bar: ModelBar, resets: gr.State, line: gr.HTML) -> None:
    page, parts = row.page, row.parts

    @page.access.handler("owner")
    def apply_preset(values: Updates, request: gr.Request) -> Updates:
        model, name = values[bar.parts.select], values[parts.select]
        if model is None or name is None:
            return {line: notice("Choose a model first." if model is None else "Choose a preset first.")}
        try:
            fit = page.forge.fit_preset(name, model)
        except LlamaForgeError as error:
            return {line: notice(f"Not applied. {error}")}
        _take_back_presets(page, request, model)
        page.set_parameters(request, model, fit.values, f"preset {name}")
        return {line: notice(_applied(name, model, fit), "hint"), resets: values[resets] + 1}

    parts.apply.click(apply_preset, {bar.parts.select, parts.select, resets}, [line, resets], **unlisted())


def _take_back_presets(page: Page, request: gr.Request, model: str) -> None:
    """Take back what a preset set before: of two presets, the second alone holds."""
    conversation = page.conversation(request)
    origins = conversation.origins.get(model, {})
    for name in [name for name, origin in origins.items() if origin.startswith("preset ")]:
        del origins[name]
        conversation.parameters[model].pop(name, None)
        conversation.file_said[model].pop(name, None)


def _wire_save(row: PresetsRow, bar: ModelBar, line: gr.HTML) -> None:
    page, parts = row.page, row.parts
    asked = gr.State(None)  # the preset, as it was read, that the next press may replace

    @page.access.handler("owner")
    def save_preset(values: Updates, request: gr.Request) -> Updates:
        name, config = (values[parts.name] or "").strip(), page.forge.config
        chosen = page.overrides(request, values[bar.parts.select] or "", "generate")
        wanted = {key: value for key, value in chosen.items() if value is not None}
        if not name:
            return {line: notice("Write a name for the preset first.")}
        if not wanted:
            return {
                line: notice("Nothing to save: set a parameter of answers first. A preset holds what is set here.")
            }
        config.reload()
        there = config.presets.get(name)
        seen = (name, there.file.digest if there.file else None) if there is not None else None
        if seen is not None and values[asked] != seen:
            text = f"There is a preset {name} already. Save again to replace it, or choose another name."
            return {line: notice(text, "warning"), asked: seen}
        try:
            config.save_preset(name, wanted)
        except LlamaForgeError as error:
            return {line: notice(f"Not saved; your values are still here. {error}")}
        page.forge.changed()
        saved = notice(f"Saved as preset {name}: {_listed(wanted)}.", "hint")
        return row.view(name) | {line: saved, asked: None, parts.name: ""}

    inputs: set[Block] = {bar.parts.select, parts.name, asked}
    parts.save.click(save_preset, inputs, [line, asked, parts.select, parts.name], **unlisted())


def _wire_delete(row: PresetsRow, line: gr.HTML) -> None:
    page, parts = row.page, row.parts

    @page.access.handler("owner")
    def delete_preset(values: Updates, request: gr.Request) -> Updates:
        name = values[parts.select]
        if name is None:
            return {line: notice("Choose a preset first.")}
        try:
            page.forge.config.remove_preset(name)
        except LlamaForgeError as error:
            return row.view() | {line: notice(str(error))}
        page.forge.changed()
        text = f"Deleted preset {name}. Its file is in presets/.trash; values that it set here stay."
        return row.view() | {line: notice(text, "hint")}

    parts.delete.click(delete_preset, {parts.select}, [line, parts.select], **unlisted())


def _choices(page: Page) -> list[tuple[str, str]]:
    """Return the presets for a list: what it shows, and the name."""
    presets = page.forge.config.presets.values()
    return [(f"{preset.name} (broken)" if preset.problem else preset.name, preset.name) for preset in presets]


def _applied(name: str, model: str, fit: PresetFit) -> str:
    """Return what came of applying a preset, as a sentence."""
    said = (
        f"Applied preset {name}: {_listed(fit.values)}." if fit.values else f"Preset {name} has nothing for {model}."
    )
    reasons: dict[str, list[str]] = {}
    for parameter, reason in fit.left_out.items():
        reasons.setdefault(reason.rstrip("."), []).append(parameter)
    left_out = "; ".join(f"{', '.join(parameters)} ({reason})" for reason, parameters in reasons.items())
    return f"{said} Left out: {left_out}." if left_out else said


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in values.items())


def _shown(value: Any) -> str:
    return ", ".join(map(repr, value)) if isinstance(value, list) else str(value)
