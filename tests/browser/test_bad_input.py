"""Whatever a person gives the page, it says what is wrong and what to do, loses nothing, and goes on answering."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest
import yaml
from page_kit import (
    PATIENCE,
    App,
    Watch,
    answers,
    ask,
    box,
    choose,
    live,
    load,
    notice,
    open_tab,
    register,
    running,
    send,
    status,
    users,
    visit,
)
from playwright.sync_api import BrowserContext, Locator, Page, expect
from tiny_gguf import COUNTING_ANSWER, damaged_variants, write_tiny_gguf

UNUSABLE = {
    "empty.gguf": "empty.gguf is empty. Download it again.",
    "text.gguf": "text.gguf is a text file",
    "truncated_data.gguf": "truncated_data.gguf is incomplete",
    "wrong_magic.gguf": "wrong_magic.gguf is no GGUF file",
    "gone.gguf": "File not found: gone.gguf. Check the path.",
    "": " is a folder. Choose a .gguf file inside: ",
}
LISTED = {
    "broken": "models/broken.yaml line 4, column 16: this '[' or '{' is not closed",
    "misspelt": "models/misspelt.yaml line 4: Unknown setting 'temprature'. Did you mean 'temperature'?",
}
BROKEN = "backend: llama.cpp\npath: x.gguf\nparameters:\n  temperature: [0.7\n"
MISSPELT = "backend: llama.cpp\npath: x.gguf\nparameters:\n  temprature: 0.7\n"
MARKUP = '<svg onload="alert(1)"></svg><script>alert(2)</script><a href="javascript:alert(3)">a link</a>'
ACTIVE = "#chat-log script, #chat-log [onload], #chat-log [href^=javascript]"
SCRIPT = '<img src="/nowhere" onerror="alert(1)"><b class="injected">bold</b><script>alert(2)</script>'


PICTURES = """Look ![a dot]({there}/dot.png) <img src="{there}/img"> <video src="{there}/video" controls></video>
<audio src="{there}/audio" controls></audio> <div style="background:url({there}/style)">styled</div>
<iframe src="{there}/frame"></iframe> <object data="{there}/object"></object> <link href="{there}/link">"""


class Canary(ThreadingHTTPServer):
    """Another site on this machine; it notes who asks it for anything."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Listening)


class _Listening(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.fixture
def canary() -> Iterator[Canary]:
    with Canary() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    app = App(folder)
    good = write_tiny_gguf(folder / "tiny.gguf")
    damaged_variants(good, folder)
    app.write_model("tiny", good)
    app.write_model("small", good, n_ctx=256)
    app.write_model("slow", write_tiny_gguf(folder / "slow.gguf", COUNTING_ANSWER, endless=True, layers=8))
    named = {"general.name": f"Model {SCRIPT}"}
    app.write_model("script", write_tiny_gguf(folder / "script.gguf", f"Look: {MARKUP} !", metadata=named))
    with app.file_of("script").open("a", encoding="utf-8") as file:
        file.write(f"description: '{SCRIPT}'\n")
    app.file_of("echo").write_text("backend: echo\npath: echo\n", "utf-8")
    app.file_of("broken").write_text(BROKEN, "utf-8")
    app.file_of("misspelt").write_text(MISSPELT, "utf-8")
    with running(app):
        yield app


@pytest.fixture
def page(context: BrowserContext, watch: Watch, app: App) -> Iterator[Page]:
    """The page; whatever was done to it, it still answers at the end."""
    page = visit(context, app)
    yield page
    open_tab(page, "Chat")
    page.locator("#new-chat").click()
    load(page, app, "tiny")
    ask(page, "Are you still there?")
    expect(answers(page)).to_contain_text("I know one answer.")


def listed(page: Page, name: str) -> Locator:
    """The row of a model in the Models tab."""
    return page.locator("#models-list label").filter(has_text=re.compile(rf"^\s*{name}(?! copy)\b"))


def open_editor(page: Page, name: str) -> Locator:
    """Open the editor on a model's file and return its text."""
    open_tab(page, "Models")
    listed(page, name).click()
    expect(page.locator("#model-card")).to_contain_text(name)
    page.locator("#edit-model").click()
    text = page.locator("#model-text .cm-content")
    expect(text).to_contain_text("backend: llama.cpp")
    return text


def test_what_is_no_model_is_not_registered_and_the_form_says_why(page: Page, app: App) -> None:
    for name, sentence in UNUSABLE.items():
        register(page, str(app.folder / name), "unusable")
        expect(page.locator("#register-notice")).to_contain_text(sentence)
        expect(page.locator("#register-path textarea")).to_have_value(str(app.folder / name))
    assert not app.file_of("unusable").exists()


def test_an_empty_form_asks_for_a_path(page: Page) -> None:
    register(page, "")
    expect(page.locator("#register-notice")).to_contain_text("Fill in the path: The file on this computer")


def test_a_name_that_exists_is_refused_and_its_file_kept(page: Page, app: App) -> None:
    before = app.file_of("small").read_bytes()
    register(page, str(app.folder / "tiny.gguf"), "small")
    expect(page.locator("#register-notice")).to_contain_text("'small' is registered already. Choose another name")
    assert app.file_of("small").read_bytes() == before


def test_a_name_that_is_no_file_name_is_refused(page: Page, app: App) -> None:
    for name in ("../escaped", "<b>bold</b>", "con", "x" * 65):
        register(page, str(app.folder / "tiny.gguf"), name)
        expect(page.locator("#register-notice")).to_contain_text("Choose another name.")
        register(page, "", name)
        expect(page.locator("#register-notice")).to_contain_text("Fill in the path")
    assert not list(app.folder.rglob("escaped.yaml"))


def test_broken_models_are_listed_with_file_and_line(page: Page) -> None:
    open_tab(page, "Models")
    for name, sentence in LISTED.items():
        expect(listed(page, name)).to_contain_text(sentence)
        listed(page, name).click()
        expect(page.locator("#model-card")).to_contain_text(sentence)


def test_loading_a_broken_model_says_why_and_keeps_the_loaded_one(page: Page, app: App) -> None:
    load(page, app, "tiny")
    choose(page, "misspelt (broken)")
    page.locator("#load-model").click()
    expect(page.locator("#model-notice")).to_contain_text("Did you mean 'temperature'?")
    expect(status(page)).to_contain_text("ready")


def test_a_model_whose_file_changed_asks_to_be_loaded_again(page: Page, app: App) -> None:
    app.write_model("changing", app.folder / "tiny.gguf", n_ctx=512)
    open_tab(page, "Models")
    page.locator("#reload-models").click()
    load(page, app, "changing")
    app.write_model("changing", app.folder / "tiny.gguf", n_ctx=1024)
    page.locator("#reload-models").click()
    expect(page.locator("#model-notice")).to_have_text(
        "The settings of changing have changed. Load it again to apply them."
    )
    page.locator("#load-model").click()
    expect(status(page)).to_contain_text("1,024 tokens")
    expect(page.locator("#model-notice")).to_have_text("")


def test_a_broken_model_is_mended_in_the_editor(page: Page, app: App) -> None:
    text = open_editor(page, "misspelt")
    text.fill(f"backend: llama.cpp\npath: {app.folder / 'tiny.gguf'}\n")
    page.locator("#save-model").click()
    expect(page.locator("#models-notice")).to_contain_text("Saved misspelt.yaml.")
    expect(listed(page, "misspelt")).to_contain_text("5.8 MB")
    app.file_of("misspelt").write_text(MISSPELT, "utf-8")
    page.locator("#reload-models").click()
    expect(listed(page, "misspelt")).to_contain_text("broken")


def test_a_prompt_over_the_window_is_refused_and_stays_in_the_box(page: Page, app: App) -> None:
    load(page, app, "small")
    long = "word " * 400
    send(page, long)
    expect(notice(page)).to_contain_text(re.compile(r"too long for the model \(4\d\d of 256 tokens\)"))
    expect(box(page)).to_have_value(long)
    expect(users(page)).to_have_count(0)


def test_an_empty_message_is_not_sent(page: Page, app: App) -> None:
    load(page, app, "tiny")
    for text in ("", "   \n "):
        box(page).fill(text)
        page.locator("#send").click()
        expect(notice(page)).to_have_text("Write a message first.")
    expect(users(page)).to_have_count(0)


def test_markup_in_a_message_and_in_an_answer_runs_nothing(page: Page, app: App) -> None:
    load(page, app, "script")
    ask(page, f"Say: {MARKUP}")
    for message in (users(page), answers(page)):
        expect(message).to_contain_text("a link")
    expect(page.locator(ACTIVE)).to_have_count(0)


def test_what_a_message_or_an_answer_shows_from_elsewhere_is_named_and_not_fetched(
    page: Page, app: App, watch: Watch, canary: Canary
) -> None:
    load(page, app, "echo")
    there = f"http://127.0.0.1:{canary.server_port}"
    ask(page, PICTURES.format(there=there))
    for message in (users(page), answers(page)):
        expect(message).to_contain_text(f"[not loaded: a dot from 127.0.0.1:{canary.server_port}]")
        expect(message.locator(".lf-blocked")).to_have_count(4)
    buttons = page.locator("#chat-turns .bot-row:not(:has(.thought-group)) + .message-buttons").last
    buttons.get_by_label("Copy").click()
    assert page.evaluate("() => navigator.clipboard.readText()") == PICTURES.format(there=there)
    assert canary.asked == []
    assert watch.seen and all("Content Security Policy directive" in text for text in watch.seen)
    watch.seen.clear()


def test_markup_in_an_answer_that_is_being_written_runs_nothing(page: Page, app: App) -> None:
    path = write_tiny_gguf(app.folder / "endless script.gguf", f"Look: {MARKUP} again ", endless=True, layers=8)
    app.write_model("endless script", path)
    open_tab(page, "Models")
    page.locator("#reload-models").click()
    load(page, app, "endless script")
    open_tab(page, "Chat")
    send(page, "Go")
    expect(live(page)).to_contain_text("a link")
    expect(page.locator(ACTIVE)).to_have_count(0)
    page.locator("#stop").click()


def test_markup_in_what_a_model_says_of_itself_is_text(page: Page) -> None:
    open_tab(page, "Models")
    listed(page, "script").click()
    card = page.locator("#model-card")
    expect(card.locator("tr").filter(has_text="Description")).to_contain_text(SCRIPT)
    expect(card.locator("tr").filter(has_text="Name")).to_contain_text(SCRIPT)
    expect(page.locator(".injected, #model-card img")).to_have_count(0)


def test_a_file_changed_elsewhere_is_not_overwritten__unasked(page: Page, app: App) -> None:
    file = app.write_model("conflict", app.folder / "tiny.gguf")
    open_tab(page, "Models")
    page.locator("#reload-models").click()
    text = open_editor(page, "conflict")
    file.write_text("backend: echo\npath: elsewhere\n", "utf-8")
    text.fill("backend: echo\npath: mine\n")
    page.locator("#save-model").click()
    expect(page.locator("#models-notice")).to_contain_text("conflict.yaml was changed elsewhere since you opened it.")
    expect(text).to_contain_text("path: mine")
    page.locator("#save-model-copy").click()
    expect(listed(page, "conflict copy")).to_have_count(1)
    assert "elsewhere" in file.read_text("utf-8")
    assert "mine" in app.file_of("conflict copy").read_text("utf-8")


def test_overwrite_wins_over_what_changed_elsewhere(page: Page, app: App) -> None:
    file = app.write_model("overwritten", app.folder / "tiny.gguf")
    open_tab(page, "Models")
    page.locator("#reload-models").click()
    text = open_editor(page, "overwritten")
    file.write_text("backend: echo\npath: elsewhere\n", "utf-8")
    text.fill("backend: echo\npath: mine\n")
    page.locator("#save-model").click()
    page.locator("#overwrite-model").click()
    expect(page.locator("#models-notice")).to_contain_text("Saved overwritten.yaml.")
    assert yaml.safe_load(file.read_text("utf-8")) == {"backend": "echo", "path": "mine"}


def test_text_that_is_no_model_is_not_saved_and_stays_in_the_editor(page: Page, app: App) -> None:
    before = app.file_of("small").read_bytes()
    text = open_editor(page, "small")
    text.fill("backend: llama.ccp\npath: x\n")
    page.locator("#save-model").click()
    expect(page.locator("#models-notice")).to_contain_text("small.yaml line 1")
    expect(page.locator("#models-notice")).to_contain_text("Did you mean 'llama.cpp'?")
    expect(text).to_contain_text("llama.ccp")
    assert app.file_of("small").read_bytes() == before


def test_remove_asks_first_and_then_moves_the_file_to_the_trash(page: Page, app: App) -> None:
    file = app.write_model("unwanted", app.folder / "tiny.gguf")
    open_tab(page, "Models")
    page.locator("#reload-models").click()
    listed(page, "unwanted").click()
    page.locator("#remove-model").click()
    expect(page.locator("#confirm-remove").first).to_contain_text("Remove 'unwanted' from the list?")
    assert file.exists()
    page.locator("#confirm-remove-yes").click()
    expect(listed(page, "unwanted")).to_have_count(0)
    assert not file.exists()
    assert [kept.name.split(".")[0] for kept in (app.config / "models" / ".trash").iterdir()] == ["unwanted"]
    assert (app.folder / "tiny.gguf").exists()


def test_keep_keeps_a_model_that_was_to_be_removed(page: Page, app: App) -> None:
    open_tab(page, "Models")
    listed(page, "small").click()
    page.locator("#remove-model").click()
    page.locator("#confirm-remove-no").click()
    expect(page.locator("#confirm-remove").first).to_be_hidden()
    expect(listed(page, "small")).to_have_count(1)
    assert app.file_of("small").exists()


def test_an_engine_that_dies_does_not_take_the_page_down(page: Page, app: App) -> None:
    load(page, app, "slow")
    send(page, "Count")
    expect(live(page)).to_contain_text("seven")
    for child in psutil.Process(app.program.process.pid).children():
        child.kill()
    expect(page.locator("#send")).to_be_visible(timeout=2 * PATIENCE)
    expect(notice(page)).not_to_be_empty()
    expect(page.locator("#chat-log")).to_contain_text("one two three")
    app.loaded = None
