"""The Parameters tab: controls drawn from the schema of the chosen model's backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

Updates = dict[Any, Any]

DESCRIPTION = "What you set here holds for this chat at once. **Save** writes it to the model's file."
SET, UNSET = ["lf-parameter", "lf-set"], ["lf-parameter", "lf-unset"]
WIDEST_SLIDER = 2**20  # beyond that nobody can aim
AT_NEXT_LOAD = "Takes effect at the next load."


@dataclass(frozen=True, slots=True)
class ParametersTab:
    """The parts of the tab that other tabs wire to."""

    page: Page
    drawn_from: gr.Textbox


def build_parameters_tab(page: Page, bar: ModelBar) -> ParametersTab:
    """Build the tab; its controls are drawn anew when another model is chosen or loaded, on Save and on Reset."""
    resets = gr.State(0)
    # A component, since what an event past the queue writes to a gr.State draws nothing anew.
    source = gr.Textbox(visible="hidden")
    gr.Markdown(DESCRIPTION, container=False)
    with gr.Row():
        save = gr.Button(
            "Save to the model's file", elem_id="save-parameters", variant="primary", size="sm", scale=0, min_width=200
        )
        reset = gr.Button("Reset", elem_id="reset-parameters", size="sm", scale=0, min_width=80)
    line = gr.HTML(elem_id="parameters-notice", elem_classes="lf-notice")
    _draw_controls(page, bar, (resets, source), line)
    _wire_saving(page, bar, (resets, source), line, save, reset)
    return ParametersTab(page, source)


def drawn_from(page: Page, name: str | None) -> str:
    """Return what the controls of a model are drawn from, so that they are drawn anew when it changes."""
    status, model = page.forge.status, page.forge.config.models.get(name or "")
    digest = model.file.digest if model is not None and model.file is not None else None
    return f"{status.model} {status.context_window} {digest}"


def _draw_controls(page: Page, bar: ModelBar, reasons: tuple[gr.State, gr.Textbox], line: gr.HTML) -> None:
    resets, source = reasons
    # Not also when the page opens: what it is drawn from comes a moment later, and a second drawing would take away
    # what was typed into the first.
    changes = [bar.parts.select.change, resets.change, source.change]

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
        try:
            draw_controls(page, name, page.conversation(request).parameters.get(name, {}), line)
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


def draw_controls(page: Page, name: str, chosen: Mapping[str, Any], line: gr.HTML) -> None:
    """Draw one control a parameter, the simple ones first, the others under "Advanced"."""
    backend = get_backend(page.forge.model(name).backend)
    settings = page.forge.settings_of(name, chosen) | _unset_here(page, name, chosen)
    drawing = _drawing(page, name, line, backend.ignored, settings)
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


def _unset_here(page: Page, name: str, chosen: Mapping[str, Any]) -> dict[str, Setting]:
    """Return the parameters whose boxes were emptied, as they will be once the file no longer sets them."""
    emptied = [key for key, value in chosen.items() if value is None]
    if not emptied:
        return {}
    infos, defaults = describe(get_backend(page.forge.model(name).backend).Parameters), page.forge.card(name).defaults
    return {key: Setting(defaults.get(key, infos[key].default), "default", is_set=False) for key in emptied}


def _drawing(
    page: Page, name: str, line: gr.HTML, ignored: Mapping[str, str], settings: Mapping[str, Setting]
) -> Drawing:
    try:
        card = page.forge.card(name)
    except LlamaForgeError:
        card = ModelCard()  # the file is gone or broken; loading it will say so
    status = page.forge.status
    planned = settings["n_ctx"].value if "n_ctx" in settings else None
    window = status.context_window if status.model == name else planned
    limits = {**card.limits, **({"max_tokens": window} if window else {})}
    return Drawing(page, name, line, ignored, limits, card.defaults)


def _control(drawing: Drawing, info: ParameterInfo, setting: Setting) -> None:
    page, line = drawing.page, drawing.line
    origin = f"Set by {setting.origin}." if setting.is_set else _unset(setting.value)
    if info.name in drawing.ignored:
        origin = drawing.ignored[info.name]
    elif info.file_only:
        origin = f"{origin} Only in the model's file."
    load = f" {AT_NEXT_LOAD}" if info.scope == "load" else ""
    common = {
        "label": info.name,
        "info": f"{info.help}{load} {origin}",
        "elem_id": f"param-{info.name}",
        "elem_classes": SET if setting.is_set else UNSET,
        "interactive": info.name not in drawing.ignored and not info.file_only,
    }
    control = _component(drawing, info, setting.value, common)
    shown = control.value

    @page.access.handler("owner")
    def change(value: Any, request: gr.Request) -> Updates:
        conversation = page.conversation(request)
        chosen = conversation.parameters.setdefault(drawing.model, {})
        wanted = _typed(info, value)
        if info.name not in chosen and wanted == _typed(info, shown):
            return {line: "", control: gr.skip()}  # the box was left as it was
        problem = _problem(page, drawing, info, wanted)
        if isinstance(control, gr.Slider) and isinstance(wanted, (int, float)):
            # The page moves a slider's box back to its end; what it shows is what Save and Send take.
            wanted = _typed(info, min(max(wanted, control.minimum), control.maximum))
        # A wrong value is kept too: Save and Send are asked to take what the box shows, and refuse.
        chosen[info.name] = wanted
        before = page.forge.config.models[drawing.model].parameters.get(info.name)
        conversation.file_said.setdefault(drawing.model, {}).setdefault(info.name, before)
        return {line: notice(problem), control: _look(drawing, info, control, wanted)}

    # Not preprocessed: Gradio would answer a number out of range with a failed request, and no sentence.
    events = [control.input, control.change, control.blur] if isinstance(control, gr.Textbox) else [control.input]
    gr.on(events, change, control, [line, control], trigger_mode="always_last", preprocess=False, **at_once())


def _look(drawing: Drawing, info: ParameterInfo, control: Any, wanted: Any) -> Any:
    """Return how a control looks with a value; an emptied slider stands at what holds without one."""
    if wanted is not None:
        return gr.update(elem_classes=SET)
    if not isinstance(control, gr.Slider):
        return gr.update(elem_classes=UNSET)
    default = drawing.defaults.get(info.name, info.default)
    return gr.update(elem_classes=UNSET, value=_start(info, default, control.maximum))


def _problem(page: Page, drawing: Drawing, info: ParameterInfo, value: Any) -> str:
    schema = get_backend(page.forge.model(drawing.model).backend).Parameters
    try:
        validate(schema, {info.name: value}, limits=drawing.limits)
    except LlamaForgeError as error:
        return str(error)
    return ""


def _component(drawing: Drawing, info: ParameterInfo, value: Any, common: dict[str, Any]) -> Any:
    if info.kind == "yes or no":
        return gr.Checkbox(value=bool(value), **common)
    if info.kind == "choice":
        return gr.Dropdown(list(info.choices), value=value, **common)
    if info.kind == "list of texts":
        common["info"] += " One a line."
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


def _unset(value: Any) -> str:
    if value is None:
        return ""  # the help says what unset means
    return f"Not set: {('off', 'on')[value] if isinstance(value, bool) else value} is used."


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
        page.conversation(request).parameters.pop(name, None)
        page.conversation(request).file_said.pop(name, None)
        page.forge.changed()
        # One of the two: controls that are drawn twice would lose what is typed in between.
        return {line: notice(text, "hint"), source: drawn_from(page, name)}

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
