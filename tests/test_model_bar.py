"""The bar above the tabs, drawn by hand: what it says while and after models are loaded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from scripted import until
from worker_kit import isolated, workers

from llamaforge import LlamaForge
from llamaforge_ui import Access
from llamaforge_ui.guests import Guests
from llamaforge_ui.model_bar import ModelBar, build_model_bar
from llamaforge_ui.page import Page

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed (event loop|<socket):ResourceWarning"),
    pytest.mark.usefixtures("no_leftovers"),
]


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[LlamaForge]:
    with isolated(tmp_path) as forge:
        yield forge


@pytest.fixture
def bar(forge: LlamaForge) -> ModelBar:
    with gr.Blocks(analytics_enabled=False):
        return build_model_bar(Page(forge, Access(public=False), Guests(forge), "owner"))


def loaded(bar: ModelBar, name: str | None) -> list[dict[Any, Any]]:
    """Press Load and return everything that it drew."""

    async def press() -> list[dict[Any, Any]]:
        return [updates async for updates in bar.load(name, gr.Request(session_hash="ada"), force=False)]

    return asyncio.run(press())


def test_load_without_a_choice_says_what_to_do(bar: ModelBar) -> None:
    assert "Choose a model first." in loaded(bar, None)[-1][bar.parts.notice]


def test_a_second_load_of_a_model_that_is_being_loaded_says_so_and_starts_nothing(
    forge: LlamaForge, bar: ModelBar
) -> None:
    slow = {"mode": "load_slow", "load_seconds": 1.5}
    first = threading.Thread(target=forge.load_model, args=["fault", slow])
    first.start()
    until(workers)
    assert "fault is being loaded already, from another window." in loaded(bar, "fault")[-1][bar.parts.notice]
    assert len(workers()) == 1
    first.join()
    assert forge.status.state == "ready"


def test_settings_that_changed_since_the_load_are_told(forge: LlamaForge, bar: ModelBar) -> None:
    forge.config.save()
    loaded(bar, "fault")
    assert "changed" not in bar.view()[bar.parts.notice]
    forge.config.save_text("fault", "backend: fault\npath: elsewhere\n", digest=None, overwrite=True)
    assert "The settings of fault have changed. Load it again to apply them." in bar.view()[bar.parts.notice]
