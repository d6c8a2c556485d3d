"""The bar above the tabs: which model, how it is, load and unload."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr

from llamaforge import LlamaForgeError, LoadSuperseded

from .convert import notice, status_line
from .page import Page, shown, unlisted

POLL_SECONDS = 2
DRAW_SECONDS = 0.4

Updates = dict[Any, Any]


class BarParts(NamedTuple):
    """The components of the bar; guests have only the status."""

    select: gr.Dropdown
    status: gr.HTML
    load: gr.Button
    unload: gr.Button
    notice: gr.HTML
    force: gr.Button


@dataclass(frozen=True, slots=True)
class ModelBar:
    """Draws what is loaded and which models there are."""

    page: Page
    parts: BarParts

    def view(self) -> Updates:
        """Return the bar as things are now; the chosen model stays chosen."""
        status = self.page.forge.status
        busy = status.state in ("loading", "unloading")
        return {
            self.parts.select: gr.update(choices=choices(self.page)),
            self.parts.status: self.status_html(),
            self.parts.load: gr.update(interactive=not busy),
            self.parts.unload: gr.update(
                value="Cancel" if status.state == "loading" else "Unload", interactive=status.state != "empty"
            ),
            self.parts.notice: self._notices(),
            self.parts.force: gr.update(elem_classes=shown(False)),
        }

    async def load(self, name: str | None, request: gr.Request, *, force: bool) -> AsyncIterator[Updates]:
        """Load a model and draw how it goes; where memory is short, ask first."""
        if not name:
            yield {self.parts.notice: notice("Choose a model first. To add one, open the Models tab.")}
            return
        status = self.page.forge.status
        if status.state == "loading" and status.model == name:
            yield {self.parts.notice: notice(f"{name} is being loaded already, from another window.", "hint")}
            return
        settings = self.page.overrides(request, name, "load")
        try:
            warning = await asyncio.to_thread(self.page.forge.check_model, name, settings)
            if warning and not force:
                offered = gr.update(elem_classes=shown(True))
                yield {self.parts.notice: notice(warning, "warning"), self.parts.force: offered}
                return
            loading = asyncio.ensure_future(asyncio.to_thread(self.page.forge.load_model, name, settings))
            while not (await asyncio.wait({loading}, timeout=DRAW_SECONDS))[0]:
                yield self.view()
            loading.result()
        except LoadSuperseded:
            pass  # the newer command draws what came of it
        except LlamaForgeError as error:
            yield self.view() | {self.parts.notice: notice(str(error), details=error.details)}
            return
        yield self.view()

    def status_html(self) -> str:
        status = self.page.forge.status
        elapsed = time.time() - status.since if status.state == "loading" else 0.0
        progress = self.page.forge.load_progress
        return status_line(status, elapsed, public=not self.page.for_owner, progress=progress)

    def _notices(self) -> str:
        status, settings = self.page.forge.status, self.page.forge.config.settings
        broken = self.page.forge.config.plugin_problems
        problem = " ".join(map(str, [*([settings.problem] if settings.problem else []), *broken.values()]))
        changed = f"The settings of {status.model} have changed. Load it again to apply them."
        hint = notice(changed if self.page.forge.settings_changed else "", "hint")
        error = notice(str(status.error), details=status.error.details) if status.error else ""
        return notice(problem) + error + hint + "".join(notice(text, "warning") for text in status.warnings)


def choices(page: Page) -> list[tuple[str, str]]:
    """Return the models for a list: what it shows, and the name."""
    return [(f"{model.name} (broken)" if model.problem else model.name, model.name) for model in page.forge.models()]


def first_choice(page: Page) -> str | None:
    """Return the model that a page begins with: the loaded one, else the default, else one that can be loaded."""
    models = page.forge.models()
    wanted = (page.forge.status.model, page.forge.config.settings.default_model)
    names = [*wanted, *(model.name for model in models if model.problem is None), *(model.name for model in models)]
    return next((name for name in names if name in page.forge.config.models), None)


def build_model_bar(page: Page) -> ModelBar:
    """Build the owner's bar and its handlers."""
    with gr.Row(elem_id="model-bar"):
        select = gr.Dropdown(
            choices(page),
            value=first_choice(page),
            elem_id="model-select",
            label="Model",
            show_label=False,
            container=False,
            scale=0,
            min_width=120,
        )
        status = gr.HTML(elem_id="model-status")
        load = gr.Button("Load", elem_id="load-model", variant="primary", size="sm", scale=0, min_width=70)
        unload = gr.Button("Unload", elem_id="unload-model", size="sm", scale=0, min_width=70)
    notice_line = gr.HTML(elem_id="model-notice", elem_classes="lf-notice")
    force = gr.Button("Load anyway", elem_id="load-anyway", size="sm", elem_classes=shown(False))
    bar = ModelBar(page, BarParts(select, status, load, unload, notice_line, force))
    _wire_loading(bar)
    return bar


def build_guest_bar(page: Page) -> gr.HTML:
    """Build what guests see of the model: its name and whether it is ready."""
    with gr.Row(elem_id="model-bar"):
        return gr.HTML(elem_id="model-status")


def _wire_loading(bar: ModelBar) -> None:
    page, parts = bar.page, bar.parts

    @page.access.handler("owner")
    async def load(values: Updates, request: gr.Request) -> AsyncIterator[Updates]:
        async for updates in bar.load(values[parts.select], request, force=False):
            yield updates

    @page.access.handler("owner")
    async def load_anyway(values: Updates, request: gr.Request) -> AsyncIterator[Updates]:
        async for updates in bar.load(values[parts.select], request, force=True):
            yield updates

    @page.access.handler("owner")
    def unload(request: gr.Request) -> Updates:
        page.forge.unload_model()
        return bar.view()

    parts.load.click(load, {parts.select}, list(parts), concurrency_limit=None, **unlisted())
    parts.force.click(load_anyway, {parts.select}, list(parts), concurrency_limit=None, **unlisted())
    parts.unload.click(unload, None, list(parts), concurrency_limit=None, **unlisted())
