"""What somebody types into a public page leads nowhere in the owner's network; what the owner's file says may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from llamaforge import LlamaForge, ParameterError
from llamaforge_ui import Access
from llamaforge_ui.guests import Guests
from llamaforge_ui.models_tab import _require_asked_address
from llamaforge_ui.page import Page
from llamaforge_ui.register_form import RegisterForm, build_register_form

INSIDE = "http://127.0.0.1:8080/v1"
TEXT = "backend: openai\npath: gpt\nparameters:\n  api_base: {}\n"

# Gradio leaves the event loops that it makes for itself to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed (event loop|<socket):ResourceWarning"),
    pytest.mark.usefixtures("no_leftovers"),
]


def page_of(folder: Path, *, local: bool) -> Page:
    (folder / "models").mkdir()
    (folder / "models" / "mine.yaml").write_text(TEXT.format(INSIDE), "utf-8")
    forge = LlamaForge(folder)
    return Page(forge, Access(public=not local), Guests(forge), "owner")


def form_of(page: Page) -> tuple[RegisterForm, dict[Any, Any]]:
    with gr.Blocks(analytics_enabled=False):
        form, _ = build_register_form(page)
    return form, {form.parts.backend: "openai", form.parts.api_base: INSIDE, form.parts.api_key: ""}


def test_the_form_of_a_public_page_takes_no_address_of_the_owners_network(tmp_path: Path) -> None:
    form, values = form_of(page_of(tmp_path, local=False))
    with pytest.raises(ParameterError, match="write it into the model's file by hand"):
        form.parameters(values)  # which is what Register and Test connection begin with
    assert form.parameters(values | {form.parts.api_base: ""}) == {}


def test_the_form_of_the_owners_own_page_takes_it(tmp_path: Path) -> None:
    form, values = form_of(page_of(tmp_path, local=True))
    assert form.parameters(values) == {"api_base": INSIDE}


def test_the_editor_of_a_public_page_keeps_the_address_in_the_file_and_takes_no_other(tmp_path: Path) -> None:
    page = page_of(tmp_path, local=False)
    _require_asked_address(page, "mine", TEXT.format(INSIDE) + "  top_p: 0.5\n")
    _require_asked_address(page, "mine", TEXT.format("https://93.184.216.34/v1"))
    for address in ("http://127.0.0.1:9090/v1", "http://192.168.1.7/v1"):
        with pytest.raises(ParameterError, match="is this computer or in its network"):
            _require_asked_address(page, "mine", TEXT.format(address))


def test_the_editor_of_the_owners_own_page_takes_any(tmp_path: Path) -> None:
    _require_asked_address(page_of(tmp_path, local=True), "mine", TEXT.format("http://192.168.1.7/v1"))
