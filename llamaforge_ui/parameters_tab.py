"""The Parameters tab: controls drawn from the schema of the chosen model's backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from llamaforge import (
    ConfigConflict,
    LlamaForgeError,
    ModelCard,
    ParameterInfo,
    Setting,
    describe,
    get_backend,
    validate,
)

from .convert import notice
from .model_bar import ModelBar
from .page import Page, at_once, unlisted
from .presets_row import build_presets_row, wire_presets

Updates = dict[Any, Any]

DESCRIPTION = (
    "What you set here holds for this chat at once. "
    "**Save** writes it to the model's file; a preset keeps it for every model."
)
WIDEST_SLIDER = 2**20  # beyond that nobody can aim
AT_NEXT_LOAD = "Takes effect at the next load."


@dataclass(frozen=True, slots=True)
class ParametersTab:
    """The parts of the tab that other tabs wire to."""

    page: Page
    drawn_from: gr.Textbox


def build_parameters_tab(page: Page, bar: ModelBar) -> ParametersTab:
    """Build the tab; its controls are drawn anew for another model, a load, Save, Reset and a preset."""
    resets = gr.State(0)
    # A component, since what an event past the queue writes to a gr.State draws nothing anew.
    source = gr.Textbox(visible="hidden")
    gr.Markdown(DESCRIPTION, container=False)
    with gr.Row():
        save = gr.Button(
            "Save to the model's file", elem_id="save-parameters", variant="primary", size="sm", scale=0, min_width=200
        )
        reset = gr.Button("Reset", elem_id="reset-parameters", size="sm", scale=0, min_width=80)
    presets = build_presets_row(page)
    line = gr.HTML(elem_id="parameters-notice", elem_classes="lf-notice")
    _draw_controls(page, bar, (resets, source), line)
    _wire_saving(page, bar, (resets, source), line, save, reset)
    wire_presets(presets, bar, (resets, source), line)
    return ParametersTab(page, source)


def drawn_from(page: Page, name: str | None, request: gr.Request) -> str:
    """Return what the controls of a model are drawn from, so that they are drawn anew when it changes."""
    conversation = page.conversation(request)
    status, model = page.forge.status, page.forge.config.models.get(name or "")
    digest = model.file.digest if model is not None and model.file is not None else None
    return f"{name} {status.model} {status.context_window} {digest} {conversation.id} {conversation.given}"


def _draw_controls(page: Page, bar: ModelBar, reasons: tuple[gr.State, gr.Textbox], line: gr.HTML) -> None:
    resets, source = reasons
    # Not also when the page opens or another model is chosen: what it is drawn from comes a moment later, and a second
    # drawing would take away what was typed into the first.
    changes = [resets.change, source.change]

    @page.access.handler("owner")
    def follow(values: Updates, request: gr.Request) -> Updates:
        if not page.conversations.arrived(request.session_hash or ""):
            return {source: gr.skip()}  # it is drawn once the chat is known, and not twice
        return {source: drawn_from(page, values[bar.parts.select], request)}

    bar.parts.select.change(follow, {bar.parts.select}, source, trigger_mode="always_last", **at_once())

    @gr.render(inputs=[bar.parts.select, *reasons], triggers=changes, show_progress="hidden")  # type: ignore[untyped-decorator]
    def draw(name: str | None, _resets: int, _source: str, request: gr.Request) -> None:
        if page.access.role(request) != "owner":
            return
        if name is None or name not in page.forge.config.models:
            gr.HTML(notice("Register a model in the Models tab, then set its parameters here.", "hint"))
            return
        if problem := page.forge.model(name).problem:
            gr.HTML(notice(str(problem)) + notice("Mend the file in the Models tab: Edit.", "hint"))
            return
        conversation = page.conversation(request)
        chosen, origins = conversation.parameters.get(name, {}), conversation.origins.get(name, {})
        try:
            draw_controls(page, name, chosen, line, origins)
        except LlamaForgeError as error:
            gr.HTML(notice(str(error)))


@dataclass(frozen=True, slots=True)
class Drawing:
    """What the controls of one model share: its page, limits and defaults, and the line for a sentence."""

    page: Page
    model: str
    line: gr.HTML
    ignored: Mapping[str, str]
    limits: Mapping[str, int]
    defaults: Mapping[str, Any]
    chosen: Mapping[str, Any]  # what was set here before


def draw_controls(
    page: Page, name: str, chosen: Mapping[str, Any], line: gr.HTML, origins: Mapping[str, str] | None = None
) -> None:
    """Draw one control a parameter, the simple ones first, the others under "Advanced"."""
    backend = get_backend(page.forge.model(name).backend)
    settings = page.forge.settings_of(name, chosen, origins)
    drawing = _drawing(page, name, line, settings, chosen)
    infos = [info for info in describe(backend.Parameters).values() if not info.secret]
    with gr.Column(elem_id="parameters"):
        for info in infos:
            if not info.advanced:
                _control(drawing, info, settings[info.name])
        if any(info.advanced for info in infos):
            with gr.Accordion("Advanced", open=False, elem_id="params-advanced"):
                for info in infos:
                    if info.advanced:
                        _control(drawing, info, settings[info.name])


def _drawing(
    page: Page, name: str, line: gr.HTML, settings: Mapping[str, Setting], chosen: Mapping[str, Any]
) -> Drawing:
    try:
        card = page.forge.card(name)
    except LlamaForgeError:
        card = ModelCard()  # the file is gone or broken; loading it will say so
    status = page.forge.status
    planned = settings["n_ctx"].value if "n_ctx" in settings else None
    window = status.context_window if status.model == name else planned
    limits = {**card.limits, **({"max_tokens": window} if window else {})}
    ignored = get_backend(page.forge.model(name).backend).ignored
    return Drawing(page, name, line, ignored, limits, card.defaults, chosen)


def _control(drawing: Drawing, info: ParameterInfo, setting: Setting) -> None:
    page, model, line = drawing.page, drawing.model, drawing.line
    saved, emptied = _without(drawing, info, setting)
    if info.name in drawing.chosen and drawing.chosen[info.name] is None:
        setting = emptied
    control = _component(drawing, info, setting)
    shown = control.value

    @page.access.handler("owner")
    def change(value: Any, request: gr.Request) -> Updates:
        conversation = page.conversation(request)
        chosen = conversation.parameters.get(model, {})
        wanted = _typed(info, value)
        if info.name not in chosen and wanted == _typed(info, shown):
            return {line: "", control: gr.skip()}  # the box was left as it was
        problem = _problem(page, drawing, info, wanted)
        if isinstance(control, gr.Slider) and isinstance(wanted, (int, float)):
            # The page moves a slider's box back to its end; what it shows is what Save and Send take.
            wanted = _typed(info, min(max(wanted, control.minimum), control.maximum))
        # A box that is left as a preset filled it is still the preset's.
        origin = conversation.origins.get(model, {}).get(info.name) if chosen.get(info.name) == wanted else None
        # A wrong value is kept too: Save and Send are asked to take what the box shows, and refuse.
        page.set_parameters(request, model, {info.name: wanted}, origin)
        now = emptied if wanted is None else Setting(wanted, origin or "this chat", over=saved)
        return {line: notice(problem), control: _look(drawing, info, control, now, wanted)}

    # Not preprocessed: Gradio would answer a number out of range with a failed request, and no sentence.
    events = [control.input, control.change, control.blur] if isinstance(control, gr.Textbox) else [control.input]
    gr.on(events, change, control, [line, control], trigger_mode="always_last", preprocess=False, **at_once())


def _without(drawing: Drawing, info: ParameterInfo, setting: Setting) -> tuple[Setting, Setting]:
    """Return what holds where this chat does not set a parameter, and what will where the file does not either."""
    set_here = drawing.chosen.get(info.name) is not None
    saved = setting.over if set_here and setting.over else setting
    if info.name not in drawing.page.forge.model(drawing.model).parameters or saved.over is None:
        return saved, saved
    return saved, replace(saved.over, origin=f"{saved.over.origin}, once it is saved")


def _look(drawing: Drawing, info: ParameterInfo, control: Any, setting: Setting, wanted: Any) -> Any:
    """Return how a control looks with a value; an emptied slider stands at what holds without one."""
    looks = gr.update(elem_classes=_classes(setting), info=_info(drawing, info, setting))
    if wanted is None and isinstance(control, gr.Slider):
        looks["value"] = _start(info, setting.value, control.maximum)
    return looks


def _classes(setting: Setting) -> list[str]:
    return ["lf-parameter", "lf-set" if setting.is_set else "lf-unset"]


def _info(drawing: Drawing, info: ParameterInfo, setting: Setting) -> str:
    """Return what stands at a control: what it does, and where its value comes from."""
    origin = drawing.ignored.get(info.name) or _origin(info, setting)
    if info.file_only and info.name not in drawing.ignored:
        origin = f"{origin} Only in the model's file."
    load = AT_NEXT_LOAD if info.scope == "load" else ""
    lines = "One a line." if info.kind == "list of texts" else ""
    return " ".join(filter(None, (info.help, load, origin, lines)))


def _origin(info: ParameterInfo, setting: Setting) -> str:
    """Return where a value comes from, and what it stands over."""
    if not setting.is_set:
        # Without a value, the help says what unset means.
        return "" if setting.value is None else f"Not set: {_said(setting.value)} is used ({setting.origin})."
    over = setting.over
    if over is None or not over.is_set:
        return f"Set by {setting.origin}."
    # Texts may be long.
    said = "otherwise" if info.kind in ("text", "list of texts") else _said(over.value)
    return f"Set by {setting.origin} ({over.origin} says {said})."


def _said(value: Any) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else str(value)


def _problem(page: Page, drawing: Drawing, info: ParameterInfo, value: Any) -> str:
    schema = get_backend(page.forge.model(drawing.model).backend).Parameters
    try:
        validate(schema, {info.name: value}, limits=drawing.limits)
    except LlamaForgeError as error:
        return str(error)
    return ""


def _component(drawing: Drawing, info: ParameterInfo, setting: Setting) -> Any:
    value = setting.value
    common: dict[str, Any] = {
        "label": info.name,
        "info": _info(drawing, info, setting),
        "elem_id": f"param-{info.name}",
        "elem_classes": _classes(setting),
        "interactive": info.name not in drawing.ignored and not info.file_only,
    }
    if info.kind == "yes or no":
        return gr.Checkbox(value=bool(value), **common)
    if info.kind == "choice":
        return gr.Dropdown(list(info.choices), value=value, **common)
    if info.kind == "list of texts":
        return gr.Textbox("\n".join(value or []), lines=1, max_lines=6, **common)
    if info.kind == "text":
        return gr.Textbox(value or "", **common)
    limit, default = drawing.limits.get(info.name), drawing.defaults.get(info.name, info.default)
    maximum = limit if limit is not None else info.maximum
    # A slider always stands somewhere, which would be a lie where nobody knows what holds when it is not set.
    unknown = default is None and limit is None
    if unknown or info.minimum is None or maximum is None or maximum - info.minimum > WIDEST_SLIDER:
        # Not gr.Number, which shows an unset one as 0.
        return gr.Textbox("" if value is None else str(value), placeholder="not set", max_lines=1, **common)
    step = info.step or (1 if info.kind == "whole number" else 0.01)
    return gr.Slider(info.minimum, maximum, value=_start(info, value, maximum), step=step, **common)


def _start(info: ParameterInfo, value: Any, maximum: float) -> float:
    """Where a slider stands: at the value, and for an unset one without default at its end."""
    return maximum if value is None else min(float(value), maximum) if info.kind == "number" else min(value, maximum)


def _typed(info: ParameterInfo, value: Any) -> Any:
    """Return a control's value in the parameter's own type; an emptied box is unset."""
    if value is None or value == "":
        return None
    if info.kind == "list of texts":
        return [text for text in str(value).splitlines() if text] or None
    if info.kind in ("whole number", "number") and isinstance(value, str):
        value = _number(value)
    if info.kind == "whole number" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _number(text: str) -> float | str:
    """Return the number that a text says; what says none stays text, and is refused as such."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return text


def _require_unchanged(page: Page, name: str, seen: dict[str, Any]) -> None:
    """Raise a ConfigConflict, once, where the file no longer says what it did when a value was changed here."""
    page.forge.config.reload()
    now = page.forge.model(name).parameters
    changed = [key for key, value in seen.items() if now.get(key) != value]
    seen.update({key: now.get(key) for key in changed})
    if changed:
        texts = ", ".join(f"{key} is {'not set' if now.get(key) is None else now[key]} there now" for key in changed)
        raise ConfigConflict(f"{name}.yaml was changed elsewhere: {texts}. Save again to overwrite it.")


def _wire_saving(
    page: Page, bar: ModelBar, reasons: tuple[gr.State, gr.Textbox], line: gr.HTML, save: gr.Button, reset: gr.Button
) -> None:
    resets, source = reasons

    def act(values: Updates, request: gr.Request, do: Callable[[str, dict[str, Any]], str]) -> Updates:
        name = values[bar.parts.select]
        if name is None:
            return {line: notice("Choose a model first.")}
        try:
            text = do(name, page.conversation(request).parameters.get(name, {}))
        except LlamaForgeError as error:
            return {line: notice(f"Not saved; your values are still here. {error}")}
        page.forget_parameters(request, name)
        page.forge.changed()
        # One of the two: controls that are drawn twice would lose what is typed in between.
        return {line: notice(text, "hint"), source: drawn_from(page, name, request)}

    @page.access.handler("owner")
    def save_parameters(values: Updates, request: gr.Request) -> Updates:
        def do(name: str, chosen: dict[str, Any]) -> str:
            if not chosen:
                return "Nothing to save: no parameter was changed."
            _require_unchanged(page, name, page.conversation(request).file_said.setdefault(name, {}))
            page.forge.config.save_parameters(name, chosen)
            return f"Saved to {name}.yaml."

        return act(values, request, do)

    @page.access.handler("owner")
    def reset_parameters(values: Updates, request: gr.Request) -> Updates:
        done = act(values, request, lambda name, _chosen: f"Back to what {name}.yaml says.")
        return done | {resets: values[resets] + 1}

    save.click(save_parameters, {bar.parts.select, resets}, [line, resets, source], **unlisted())
    reset.click(reset_parameters, {bar.parts.select, resets}, [line, resets, source], **unlisted())
