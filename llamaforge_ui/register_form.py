"""The form that registers a model: what to fill in depends on the backend, and a service can be asked first."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio.blocks import Block

from llamaforge import (
    BackendError,
    BackendMissing,
    BaseBackend,
    LlamaForgeError,
    Model,
    ModelError,
    backend_names,
    describe,
    get_backend,
)

from .comparison import comparison
from .convert import notice
from .page import Page, at_once, unlisted

Updates = dict[Any, Any]

USUAL_BACKEND = "llama.cpp"
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")


class RegisterParts(NamedTuple):
    """The components of the form."""

    backend: gr.Dropdown
    about: gr.HTML
    compared: gr.HTML
    found: gr.Dropdown
    service: gr.Row
    api_base: gr.Textbox
    api_key: gr.Textbox
    test: gr.Button
    path: gr.Textbox
    file: gr.Textbox
    name: gr.Textbox
    notice: gr.HTML


@dataclass(frozen=True, slots=True)
class RegisterForm:
    """Draws the form."""

    page: Page
    parts: RegisterParts

    def found(self, backend: str | None) -> Updates:
        """Return the files of the models folder, where the chosen backend reads such files."""
        files = self.page.forge.config.found_files() if backend == USUAL_BACKEND else []
        choices = [(file.name, str(file)) for file in files]
        label = "Found in your models folder"
        return {self.parts.found: gr.update(choices=choices, value=None, visible=bool(choices), label=label)}

    def shape(self, name: str | None) -> Updates:
        """Return the form as a backend needs it."""
        parts, backend = self.parts, _backend(name)
        return self.found(name) | {
            parts.about: backend.about,
            parts.compared: comparison(name),
            parts.service: gr.update(visible=backend.is_service),
            parts.path: gr.update(label=backend.path_label, info=backend.path_help, placeholder=backend.path_example),
            parts.file: gr.update(visible="file" in backend.file_keys, value=""),
            parts.notice: "",
        }

    def emptied(self, hint: str) -> Updates:
        parts = self.parts
        return {part: "" for part in (parts.path, parts.file, parts.name)} | {
            parts.found: None,
            parts.notice: notice(hint, "hint"),
        }

    def parameters(self, values: Updates) -> dict[str, Any]:
        """Return what the form says of a service; keys are named, never taken."""
        parts = self.parts
        if not _backend(values[parts.backend]).is_service:
            return {}
        variable = (values[parts.api_key] or "").strip().removeprefix("${").removesuffix("}")
        if variable and not VARIABLE.fullmatch(variable):
            raise ModelError(
                "Give the name of the environment variable that holds the key, OPENAI_API_KEY say, not the key itself."
            )
        chosen = {
            "api_base": (values[parts.api_base] or "").strip(),
            "api_key": f"${{{variable}}}" if variable else "",
        }
        if self.page.access.public:
            _backend(values[parts.backend]).require_public(chosen)
        return {key: value for key, value in chosen.items() if value}


def build_register_form(page: Page) -> tuple[RegisterForm, gr.Button]:
    """Build the form; its button is wired by wire_register_form."""
    usual = _backend(USUAL_BACKEND)
    gr.Markdown("#### Register a model", container=False)
    with gr.Row():
        backend = gr.Dropdown(backend_names(), value=USUAL_BACKEND, elem_id="register-backend", label="Backend")
        about = gr.HTML(usual.about, elem_id="register-about")
    compared = gr.HTML(comparison(USUAL_BACKEND), elem_id="register-compared")
    found = gr.Dropdown([], elem_id="register-found", label="Found in your models folder", visible=False)
    with gr.Row(visible=False, elem_id="register-service") as service:
        api_base = gr.Textbox(
            elem_id="register-api-base",
            label="Address",
            placeholder="https://api.openai.com/v1",
            info="Of any OpenAI-compatible service; it usually ends in /v1.",
        )
        api_key = gr.Textbox(
            elem_id="register-api-key",
            label="Key's environment variable",
            placeholder="OPENAI_API_KEY",
            info="Its name. The key itself is never written or shown here.",
        )
        test = gr.Button("Test connection", elem_id="test-connection", size="sm", scale=0, min_width=140)
    path = gr.Textbox(
        elem_id="register-path", label=usual.path_label, placeholder=usual.path_example, info=usual.path_help
    )
    with gr.Row():
        file = gr.Textbox(
            elem_id="register-file",
            label="File in the repository",
            placeholder="*Q4_K_M.gguf",
            info="Only for a repository of the Hub with several files.",
        )
        name = gr.Textbox(
            elem_id="register-name", label="Name", placeholder="from the path, if left empty", info="In this list."
        )
    register = gr.Button("Register", elem_id="register-model", variant="primary", scale=0, min_width=160)
    line = gr.HTML(elem_id="register-notice", elem_classes="lf-notice")
    parts = RegisterParts(backend, about, compared, found, service, api_base, api_key, test, path, file, name, line)
    return RegisterForm(page, parts), register


def wire_register_form(
    form: RegisterForm, register: gr.Button, shown: list[Any], view: Callable[[str], Updates]
) -> None:
    """Wire the form.

    Args:
        shown: the components that `view` draws once a model is registered.
    """
    page, parts = form.page, form.parts

    @page.access.handler("owner")
    def choose_backend(values: Updates, request: gr.Request) -> Updates:
        return form.shape(values[parts.backend])

    @page.access.handler("owner")
    def take_found(values: Updates, request: gr.Request) -> Updates:
        path = values[parts.found] or ""
        return {
            parts.path: path,
            parts.name: Path(path).stem if _backend(values[parts.backend]).paths_are_files else "",
        }

    @page.access.handler("owner")
    async def test(values: Updates, request: gr.Request) -> AsyncIterator[Updates]:
        yield {parts.notice: notice("Asking the service …", "hint")}
        try:
            parameters = form.parameters(values)
            names = await asyncio.to_thread(page.forge.service_models, values[parts.backend], parameters)
        except LlamaForgeError as error:
            yield {parts.notice: notice(str(error))}
            return
        known = "1 model" if len(names) == 1 else f"{len(names)} models"
        hint = f"It answers. It has {known}; choose one." if names else "It answers, but names no model."
        choices = gr.update(choices=names, value=None, visible=bool(names), label="Models of this service")
        yield {parts.notice: notice(hint, "hint"), parts.found: choices}

    @page.access.handler("owner")
    def add(values: Updates, request: gr.Request) -> Updates:
        try:
            name, hint = _register(form, values)
        except LlamaForgeError as error:
            return {parts.notice: notice(str(error))}
        return form.emptied(hint) | view(name)

    parts.backend.input(choose_backend, {parts.backend}, list(parts), **at_once())
    parts.found.input(take_found, {parts.found, parts.backend}, list(parts), **at_once())
    asked: set[Block] = {parts.backend, parts.api_base, parts.api_key}
    parts.test.click(test, asked, list(parts), concurrency_limit=None, **unlisted())
    gr.on(
        [register.click, parts.path.submit, parts.name.submit],
        add,
        asked | {parts.name, parts.path, parts.file},
        [*parts, *shown],
        **at_once(),
    )


def _register(form: RegisterForm, values: Updates) -> tuple[str, str]:
    """Register a model and save it; return its name and what to do next."""
    parts, forge = form.parts, form.page.forge
    path = (values[parts.path] or "").strip().strip("\"'")
    backend = values[parts.backend] or ""
    near = get_backend(backend)()
    if not path and near.path_example:
        raise ModelError(f"Fill in the {near.path_label.lower()}: {near.path_help}")
    file = (values[parts.file] or "").strip() if "file" in near.file_keys else ""
    name = (values[parts.name] or "").strip() or _name_of(path, near)
    if name in forge.config.models:
        raise ModelError(f"{name!r} is registered already. Choose another name, or edit that one above.")
    parameters = form.parameters(values)
    hint = f"Registered {name!r}. Press Load at the top to chat with it."
    try:
        near.check(forge.config.model_path(Model(name, backend, path, file_in_path=file)), parameters)
    except BackendMissing as missing:
        hint = f"Registered {name!r}. {missing}"
    forge.add_model(name, path or name, backend, parameters, file=file)
    try:
        forge.config.save()
    except LlamaForgeError:
        forge.remove_model(name)
        raise
    return name, hint


def _name_of(path: str, backend: BaseBackend) -> str:
    """Return a name for a model that was given none: from the file, without its ending, or from the model's own."""
    if backend.paths_are_files and path.lower().endswith(".gguf"):
        return Path(path).stem
    return re.sub(r"[^\w .\-]", "-", path.rstrip("/").rsplit("/", 1)[-1])


def _backend(name: str | None) -> BaseBackend:
    """Return a backend to ask what it is; where it is broken, one that knows nothing."""
    try:
        backend = get_backend(name or "")()
        describe(backend.Parameters)
        return backend
    except BackendError:
        return BaseBackend()
