"""A key that stands in a model's file is used, kept, and never sent to the page; nor is one of the environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_server import FaultServer, answer, refusal
from page_kit import App, Watch, answers, ask, box, choose, load, notice, open_tab, running, send, visit
from playwright.sync_api import BrowserContext, Locator, Page, expect

KEY = "a-literal-key-5e1f0c2b7a9d4e68"
MASK = "•••• (in file)"
TEXT = f"""# written by hand
backend: openai
path: tiny
parameters:
  api_key: "{KEY}"   # mine
  api_base: {{url}}
  top_p: 0.5
"""


@pytest.fixture(scope="module")
def service() -> Iterator[FaultServer]:
    server = FaultServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def app(folder: Path, service: FaultServer) -> Iterator[App]:
    app = App(folder)
    app.file_of("remote").write_text(TEXT.format(url=service.url), "utf-8")
    with running(app):
        yield app
    assert KEY not in app.program.output


@pytest.fixture
def page(context: BrowserContext, watch: Watch, app: App) -> Iterator[Page]:
    """The page; whatever was done to it, no response and no element of it held the key."""
    watch.secrets = [KEY.encode()]
    page = visit(context, app)
    yield page
    assert KEY not in page.evaluate("() => [...document.querySelectorAll('input, textarea')].map(e => e.value).join()")
    assert watch.searched > 10


def open_editor(page: Page, name: str) -> Locator:
    open_tab(page, "Models")
    choose(page, name)
    page.locator("#edit-model").click()
    text = page.locator("#model-text .cm-content")
    expect(text).to_contain_text("path: tiny")
    return text


def test_the_editor_shows_a_mask_and_saves_the_key_as_it_was_written(page: Page, app: App) -> None:
    before = app.file_of("remote").read_text("utf-8")
    text = open_editor(page, "remote")
    expect(text).to_contain_text(f"api_key: {MASK}   # mine")
    text.fill(before.replace(f'"{KEY}"', MASK).replace("0.5", "0.25"))
    page.locator("#save-model").click()
    expect(page.locator("#models-notice")).to_contain_text("Saved remote.yaml.")
    assert app.file_of("remote").read_text("utf-8") == before.replace("0.5", "0.25")


@pytest.mark.parametrize("how", ["duplicate", "copy"])
def test_a_copy_has_no_key_and_says_so(page: Page, app: App, how: str) -> None:
    text = open_editor(page, "remote")
    before = app.file_of("remote").read_bytes()
    files = set(app.file_of("remote").parent.glob("*.yaml"))
    page.locator("#save-model-copy" if how == "copy" else "#duplicate-model").click()
    expect(page.locator("#models-notice")).to_contain_text("The copy has no key")
    (copy,) = set(app.file_of("remote").parent.glob("*.yaml")) - files
    assert KEY not in copy.read_text("utf-8") and "top_p" in copy.read_text("utf-8")
    assert app.file_of("remote").read_bytes() == before
    expect(text).to_be_hidden()


def test_a_broken_file_is_masked_too(page: Page, app: App) -> None:
    app.file_of("broken").write_text(TEXT.format(url="http://127.0.0.1:1/v1").replace("0.5", "[0.5"), "utf-8")
    open_tab(page, "Models")
    page.locator("#reload-models").click()
    open_tab(page, "Models")
    page.locator("#models-list label").filter(has_text="broken").first.click()
    page.locator("#edit-model").click()
    text = page.locator("#model-text .cm-content")
    expect(text).to_contain_text("top_p: [0.5")
    expect(text).to_contain_text(f"api_key: {MASK}")
    app.file_of("broken").unlink()
    page.locator("#reload-models").click()


def test_a_key_is_used_and_what_the_service_repeats_of_it_is_hidden(
    page: Page, app: App, service: FaultServer
) -> None:
    service.reply(answer("Fine."))
    service.reply(refusal(400, f"bad header 'Authorization: Bearer {KEY}' and key {KEY}"))
    load(page, app, "remote")
    expect(page.locator("#model-notice")).to_contain_text("The key stands in the model's parameters in plain text.")
    open_tab(page, "Chat")
    ask(page, "How are you?")
    expect(answers(page)).to_contain_text("Fine.")
    assert service.requests[-1].headers["authorization"] == f"Bearer {KEY}"
    send(page, "And now?")
    expect(notice(page)).to_contain_text("[hidden]")
    expect(box(page)).to_have_value("And now?")
    open_tab(page, "Parameters")
    expect(page.locator("#param-top_p")).to_be_visible()
