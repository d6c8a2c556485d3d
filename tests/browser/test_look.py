"""The page in two sizes and two lights: nothing hangs over, every part has its id and its name; and pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_kit import ROOT, App, ask, load, open_tab, running, unfold_advanced
from playwright.sync_api import BrowserContext, Page, expect
from tiny_gguf import write_tiny_gguf

SCREENSHOTS = ROOT / "tests" / "screenshots"
WIDTHS = {"desktop": 1280, "phone": 390}
LOOKS = [
    pytest.param(
        {"viewport": {"width": width, "height": 844}, "color_scheme": scheme},
        f"{size}-{scheme}",
        id=f"{size}-{scheme}",
    )
    for size, width in WIDTHS.items()
    for scheme in ("light", "dark")
]
TABS = ("Chat", "Models", "Parameters")
IDS = {
    "Chat": "model-select load-model unload-model model-status chat-log chat-input send regenerate new-chat "
    "system-prompt",
    "Models": "register-name register-path register-backend register-model",
    "Parameters": "preset-select apply-preset delete-preset preset-name save-preset "
    "params-advanced save-parameters reset-parameters param-n_gpu_layers param-n_ctx param-n_batch "
    "param-temperature param-max_tokens param-top_p param-top_k param-min_p param-repeat_penalty param-seed "
    "param-stop",
}
UNNAMED = re.compile(r"- (?:button|textbox|combobox|checkbox|radio|slider|spinbutton|switch|link|tab)\b(?! \")[^\n]*")


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    app = App(folder)
    app.write_model(
        "a tiny model with a name that is far too long for one line", write_tiny_gguf(folder / "tiny.gguf")
    )
    app.write_model("tiny", folder / "tiny.gguf")
    with running(app):
        yield app


def show(page: Page, app: App, tab: str) -> None:
    """Show a tab as a person sees it: with a conversation, the model's card, and all parameters."""
    load(page, app, "tiny")
    open_tab(page, tab)
    if tab == "Chat":
        ask(page, "Hello! What do you know, and how would one print it?")
    elif tab == "Models":
        expect(page.locator("#model-card")).to_contain_text("Architecture")
    else:
        unfold_advanced(page)


@pytest.mark.parametrize(("context", "look"), LOOKS, indirect=["context"])
def test_nothing_hangs_over_the_side(page: Page, app: App, look: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    for tab in TABS:
        show(page, app, tab)
        page.screenshot(path=SCREENSHOTS / f"{tab.lower()}-{look}.png", full_page=tab != "Chat")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), tab
    assert page.evaluate("document.body.classList.contains('dark')") == look.endswith("dark")


def test_every_promised_id_is_there(page: Page, app: App) -> None:
    page.get_by_role("button", name="System prompt").click()
    for tab in TABS:
        show(page, app, tab)
        for name in IDS[tab].split():
            expect(page.locator(f"#{name}")).to_have_count(1)
            expect(page.locator(f"#{name}")).to_be_visible()


@pytest.mark.parametrize("tab", TABS)
def test_every_button_and_field_has_a_name(page: Page, app: App, tab: str) -> None:
    show(page, app, tab)
    assert UNNAMED.findall(page.locator("body").aria_snapshot()) == []


@pytest.mark.parametrize("context", [{"viewport": {"width": 390, "height": 844}}], indirect=True, ids=["phone"])
def test_the_bar_is_one_line_on_a_phone(page: Page, app: App, context: BrowserContext) -> None:
    load(page, app, "a tiny model with a name that is far too long for one line")
    parts = [page.locator(f"#{name}") for name in ("model-select", "model-status", "load-model", "unload-model")]
    boxes = [box for part in parts if (box := part.bounding_box())]
    middles = [box["y"] + box["height"] / 2 for box in boxes]
    assert len(boxes) == len(parts)
    assert max(middles) - min(middles) < 8
    assert all(left["x"] + left["width"] <= right["x"] for left, right in zip(boxes, boxes[1:], strict=False))
