"""The Models tab: what is registered, what a file says about itself, and register, edit, duplicate, remove."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.blocks import Block

from llamaforge import (
    ConfigConflict,
    LlamaForgeError,
    Model,
    ModelError,
    format_bytes,
    get_backend,
    hide_secrets,
)

from .convert import notice
from .model_bar import ModelBar
from .page import Page, at_once, shown
from .plugins_row import build_plugins_row, plugins_view, wire_plugins_row
from .register_form import RegisterForm, build_register_form, wire_register_form

Updates = dict[Any, Any]

NO_KEY = "The copy has no key: one that stands in a file is not written into another."
NO_MODELS = "No model is registered yet. Register a GGUF file below: its path on this computer is all that is needed."


class ModelsParts(NamedTuple):
    """The components of the tab that its handlers write to."""

    list: gr.Radio
    card: gr.HTML
    plugins: gr.CheckboxGroup
    actions: gr.Row
    notice: gr.HTML
    editor: gr.Column
    text: gr.Code
    overwrite: gr.Button
    confirm: gr.Column
    question: gr.HTML


class Actions(NamedTuple):
    """The buttons of the tab."""

    edit: gr.Button
    duplicate: gr.Button
    remove: gr.Button
    reload: gr.Button
    save: gr.Button
    save_copy: gr.Button
    close: gr.Button
    yes: gr.Button
    no: gr.Button


@dataclass(frozen=True, slots=True)
class ModelsTab:
    """Draws the registered models and the one that is chosen in the bar."""

    page: Page
    bar: ModelBar
    parts: ModelsParts
    form: RegisterForm

    def view(self, chosen: str | None) -> Updates:
        """Return list and card as things are now, with a model chosen."""
        models = self.page.forge.models()
        names = [model.name for model in models]
        chosen = chosen if chosen in names else next(iter(names), None)
        return {
            self.parts.list: gr.update(choices=[(self._row(model), model.name) for model in models], value=chosen),
            self.parts.card: self.card(chosen),
            self.parts.plugins: plugins_view(self.page, chosen),
            self.parts.actions: gr.update(elem_classes=shown(chosen is not None)),
            self.bar.parts.select: gr.update(choices=[(_label(model), model.name) for model in models], value=chosen),
        }

    def _row(self, model: Model) -> str:
        status = self.page.forge.status
        state = f" — {status.state}" if status.model == model.name else ""
        if model.problem is not None:
            return f"{model.name} — broken: {model.problem}"
        said = f" — {model.description}" if model.description else ""
        return f"{model.name}{said} — {model.backend} — {Path(model.path).name}{_size(self.page, model)}{state}"

    def card(self, name: str | None) -> str:
        """Return what the chosen model's file says about itself, as an HTML table."""
        if name is None:
            return notice(NO_MODELS, "hint")
        model = self.page.forge.model(name)
        if model.problem is not None:
            return notice(f"{model.problem}") + notice("Edit the file here, or by hand and press Reload.", "hint")
        facts = {"Model": name, "Backend": model.backend, "Path": model.path, "Description": model.description}
        try:
            facts |= self.page.forge.card(name).facts
        except LlamaForgeError as error:
            return _table(facts) + notice(str(error))
        return _table(facts)


def build_models_tab(page: Page, bar: ModelBar) -> ModelsTab:
    """Build the tab's components and their handlers."""
    parts, actions = _components()
    form, register = build_register_form(page)
    tab = ModelsTab(page, bar, parts, form)
    _wire_choice(tab, actions)
    _wire_editor(tab, actions)
    _wire_removal(tab, actions)
    wire_plugins_row(page, parts.plugins, parts.list, parts.notice, [*parts, bar.parts.select], tab.view)
    wire_register_form(form, register, [*parts, bar.parts.select], tab.view)
    return tab


def _components() -> tuple[ModelsParts, Actions]:
    with gr.Row(elem_id="models-head"):
        gr.Markdown("#### Registered models", container=False)
        reload = gr.Button("Reload", elem_id="reload-models", size="sm", scale=0, min_width=80)
    models = gr.Radio([], elem_id="models-list", label="Registered models", show_label=False, container=False)
    card = gr.HTML(elem_id="model-card")
    plugins = build_plugins_row()
    with gr.Row(elem_classes=shown(False), elem_id="model-actions") as row:
        edit = gr.Button("Edit", elem_id="edit-model", size="sm", scale=0, min_width=96)
        duplicate = gr.Button("Duplicate", elem_id="duplicate-model", size="sm", scale=0, min_width=96)
        remove = gr.Button("Remove", elem_id="remove-model", size="sm", scale=0, min_width=96)
    with gr.Column(visible=False, elem_id="confirm-remove") as confirm:
        question = gr.HTML(padding=True)
        with gr.Row():
            yes = gr.Button("Remove", variant="stop", elem_id="confirm-remove-yes", size="sm")
            no = gr.Button("Keep", elem_id="confirm-remove-no", size="sm")
    with gr.Column(visible=False, elem_id="model-editor") as editor:
        text = gr.Code(language="yaml", label="The model's file", elem_id="model-text", interactive=True)
        with gr.Row():
            save = gr.Button("Save", variant="primary", elem_id="save-model", size="sm", min_width=80)
            overwrite = gr.Button("Overwrite", elem_id="overwrite-model", size="sm", min_width=80, visible=False)
            save_copy = gr.Button("Save as copy", elem_id="save-model-copy", size="sm", min_width=80)
            close = gr.Button("Close", elem_id="close-editor", size="sm", min_width=80)
    notice_line = gr.HTML(elem_id="models-notice", elem_classes="lf-notice")
    parts = ModelsParts(models, card, plugins, row, notice_line, editor, text, overwrite, confirm, question)
    return parts, Actions(edit, duplicate, remove, reload, save, save_copy, close, yes, no)


def _wire_choice(tab: ModelsTab, actions: Actions) -> None:
    page, parts = tab.page, tab.parts

    @page.access.handler("owner")
    def choose(values: Updates, request: gr.Request) -> Updates:
        return _closed(tab) | tab.view(values[parts.list])

    @page.access.handler("owner")
    def choose_in_bar(values: Updates, request: gr.Request) -> Updates:
        return _closed(tab) | tab.view(values[tab.bar.parts.select])

    @page.access.handler("owner")
    def reload(values: Updates, request: gr.Request) -> Updates:
        page.forge.config.reload()
        page.forge.changed()
        found = tab.form.found(values[tab.form.parts.backend])
        hint = {parts.notice: notice("Read again from disk.", "hint")}
        return _closed(tab) | tab.view(values[parts.list]) | found | hint

    outputs = [*parts, tab.bar.parts.select]
    parts.list.input(choose, {parts.list}, outputs, **at_once())
    tab.bar.parts.select.input(choose_in_bar, {tab.bar.parts.select}, outputs, **at_once())
    form = tab.form.parts
    actions.reload.click(reload, {parts.list, form.backend}, [*outputs, form.found], **at_once())


def _wire_editor(tab: ModelsTab, actions: Actions) -> None:
    page, parts = tab.page, tab.parts
    opened = gr.State(("", None))  # the name and digest of the file as it was read into the editor

    @page.access.handler("owner")
    def edit(values: Updates, request: gr.Request) -> Updates:
        name = values[parts.list]
        page.forge.model(name)
        text, digest = page.forge.config.shown(name)
        return _closed(tab) | {
            parts.editor: gr.update(visible=True),
            parts.text: gr.update(value=text, label=f"{name}.yaml"),
            opened: (name, digest),
        }

    def written(values: Updates, name: str, digest: str | None, *, overwrite: bool = False) -> Updates:
        try:
            _require_asked_address(page, name, values[parts.text])
            page.forge.config.save_shown(name, values[parts.text], digest=digest, overwrite=overwrite)
        except ConfigConflict:
            text = f"{name}.yaml was changed elsewhere since you opened it. Your text is kept here."
            return {parts.notice: notice(text), parts.overwrite: gr.update(visible=True)}
        except LlamaForgeError as error:
            return {parts.notice: notice(f"Not saved. {error}")}
        page.forge.changed()
        loaded = page.forge.status.model == name
        hint = f"Saved {name}.yaml." + (" Load the model again to apply it." if loaded else "")
        return _closed(tab) | tab.view(name) | {parts.notice: notice(hint, "hint")}

    @page.access.handler("owner")
    def save(values: Updates, request: gr.Request) -> Updates:
        name, digest = values[opened]
        return written(values, name, digest)

    @page.access.handler("owner")
    def overwrite(values: Updates, request: gr.Request) -> Updates:
        name, digest = values[opened]
        return written(values, name, digest, overwrite=True)

    @page.access.handler("owner")
    def save_copy(values: Updates, request: gr.Request) -> Updates:
        name, text = values[opened][0], values[parts.text]
        try:
            _require_asked_address(page, name, text)
            copy = page.forge.config.save_copy(name, text)
        except LlamaForgeError as error:
            return {parts.notice: notice(f"Not saved. {error}")}
        page.forge.changed()
        hint = f"Saved {copy.name}.yaml.{_left_out(copy, text)}"
        return _closed(tab) | tab.view(copy.name) | {parts.notice: notice(hint, "hint")}

    @page.access.handler("owner")
    def close(request: gr.Request) -> Updates:
        return _closed(tab)

    outputs = [*parts, tab.bar.parts.select, opened]
    inputs: set[Block] = {parts.text, opened}
    actions.edit.click(edit, {parts.list}, outputs, **at_once())
    actions.save.click(save, inputs, outputs, **at_once())
    parts.overwrite.click(overwrite, inputs, outputs, **at_once())
    actions.save_copy.click(save_copy, inputs, outputs, **at_once())
    actions.close.click(close, None, outputs, **at_once())


def _wire_removal(tab: ModelsTab, actions: Actions) -> None:
    page, parts = tab.page, tab.parts

    @page.access.handler("owner")
    def ask(values: Updates, request: gr.Request) -> Updates:
        name = values[parts.list]
        loaded = " It stays loaded until you unload it." if page.forge.status.model == name else ""
        text = f"Remove {name!r} from the list? Its YAML file moves to models/.trash, the model file stays.{loaded}"
        return _closed(tab) | {parts.confirm: gr.update(visible=True), parts.question: notice(text, "warning")}

    @page.access.handler("owner")
    def remove(values: Updates, request: gr.Request) -> Updates:
        name = values[parts.list]
        try:
            page.forge.remove_model(name)
            page.forge.config.save()
        except ModelError:
            return _closed(tab) | tab.view(None) | {parts.notice: notice(f"{name!r} was already removed.", "hint")}
        hint = f"Removed {name!r}."
        if name == page.forge.config.settings.default_model:
            hint += " settings.yaml still names it as default_model: put another name there, or take the line out."
        return _closed(tab) | tab.view(None) | {parts.notice: notice(hint, "hint")}

    @page.access.handler("owner")
    def keep(request: gr.Request) -> Updates:
        return _closed(tab)

    @page.access.handler("owner")
    def duplicate(values: Updates, request: gr.Request) -> Updates:
        name = values[parts.list]
        try:
            text = page.forge.config.shown(name)[0]
            copy = page.forge.config.save_copy(name, text)
        except LlamaForgeError as error:
            return {parts.notice: notice(f"Not duplicated. {error}")}
        page.forge.changed()
        hint = f"{copy.name!r} is a copy of {name!r}.{_left_out(copy, text)}"
        return _closed(tab) | tab.view(copy.name) | {parts.notice: notice(hint, "hint")}

    outputs = [*parts, tab.bar.parts.select]
    actions.remove.click(ask, {parts.list}, outputs, **at_once())
    actions.yes.click(remove, {parts.list}, outputs, **at_once())
    actions.no.click(keep, None, outputs, **at_once())
    actions.duplicate.click(duplicate, {parts.list}, outputs, **at_once())


def _require_asked_address(page: Page, name: str, typed: str) -> None:
    """Whoever uses a public page may keep the address in a model's file, but choose none in the owner's network."""
    if not page.access.public:
        return
    old, new = page.forge.config.models.get(name), page.forge.config.model_in(name, typed)
    if new.problem is None and (old is None or old.parameters.get("api_base") != new.parameters.get("api_base")):
        get_backend(new.backend)().require_public(new.parameters)


def _left_out(copy: Model, text: str) -> str:
    """Return a sentence on the keys that a copy of a shown text has not."""
    return f" {NO_KEY}" if copy.file is not None and copy.file.text != text else ""


def _closed(tab: ModelsTab) -> Updates:
    """Close editor and question, and take old notices away."""
    parts = tab.parts
    return {
        parts.editor: gr.update(visible=False),
        parts.overwrite: gr.update(visible=False),
        parts.confirm: gr.update(visible=False),
        parts.notice: "",
    }


def _label(model: Model) -> str:
    return f"{model.name} (broken)" if model.problem else model.name


def _size(page: Page, model: Model) -> str:
    file = page.forge.config.resolve(model.path)
    return f" — {format_bytes(file.stat().st_size)}" if file.is_file() else ""


def _table(facts: dict[str, str]) -> str:
    rows = (
        f"<tr><th>{html.escape(k)}</th><td>{html.escape(hide_secrets(str(v)))}</td></tr>"
        for k, v in facts.items()
        if v
    )
    return f'<table class="lf-card">{"".join(rows)}</table>'
