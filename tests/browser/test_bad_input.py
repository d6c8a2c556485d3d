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

from llamaforge_ui.plain_text import JOINER, harmless

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


SCRIPTS = (
    "<script>alert(1)</script>",
    '<img src="x" onerror="alert(2)">',
    '<svg onload="alert(3)"></svg>',
    '<a href="javascript:alert(4)">words</a>',
    '<iframe src="javascript:alert(5)"></iframe>',
    '<form action="/x"><input name="y" autofocus onfocus="alert(6)"></form>',
    "<style>p { display: none }</style>",
    '<math><mtext><table><mglyph><style><!--</style><img title="--&gt;<img src=1 onerror=alert(7)>">',
    "```mermaid\ngraph TD; A[<img src=x onerror=alert(8)>]\n```",
)
DEAD_LINKS = (
    "[a script](javascript:alert(1))",
    "[a page](data:text/html,<script>alert(2)</script>)",
    "[nested [a](javascript:alert(3))](javascript:alert(4))",
)
PICTURES = (
    "![a picture]({there}/inline?d=secret)",
    "![by name][picture]\n\n[picture]: {there}/reference",
    "[![a badge]({there}/badge)]({there}/ci)",
)
MEDIA = (
    '<img src="{there}/img">',
    '<div style="background:url({there}/style)">styled</div>',
    '<video poster="{there}/poster" src="{there}/video" controls></video>',
    '<audio src="{there}/audio" controls></audio>',
    '<style>@import "{there}/import";</style>',
    '<object data="{there}/object"></object>',
    '<link rel="stylesheet" href="{there}/link">',
    '<link rel="dns-prefetch" href="{there}">',
)
HOSTS = {
    "[docs](https://docs.example/a)": "docs.example",
    "[bank.example](https://evil.example/)": "evil.example",
    "https://bank.example@evil.example/": "evil.example",
    "[apple](https://аррӏе.com/)": "xn--80ak6aa92e.com",
    "https://docs.example/a": None,
    "[docs.example](https://docs.example/a)": None,
    "[here](/here)": None,
}
CODE = '<!-- a note -->\n<div class="a"><img src="x"></div>'


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


def said_and_answered(page: Page, app: App, text: str) -> tuple[Locator, Locator]:
    """Have a text in the chat as a message and as its answer; return both."""
    load(page, app, "echo")
    ask(page, text)
    return users(page), answers(page)


def expect_plain(message: Locator) -> None:
    """Expect nothing in a message but paragraphs, links and code."""
    names = message.locator(".md *").evaluate_all("(all) => all.map((one) => one.localName)")
    code = ("div", "button", "span", "svg", "path", "pre", "code")
    assert set(names) <= {"p", "br", "a", "em", *code}, set(names)
    expect(message.locator("[style], [onload], [onerror], [onfocus]")).to_have_count(0)


def copied(page: Page) -> str:
    text: str = page.evaluate("() => navigator.clipboard.readText()")
    return text


def copy_answer(page: Page) -> str:
    expect(page.locator("#chat-turns .lf-tail").last).to_be_visible()
    page.locator("#chat-turns .bot-row + .message-buttons [aria-label='Copy message']:visible").last.click()
    return copied(page)


def test_markup_in_a_message_and_in_an_answer_runs_nothing(page: Page, app: App) -> None:
    load(page, app, "script")
    ask(page, f"Say: {MARKUP}")
    for message in (users(page), answers(page)):
        expect(message).to_contain_text(harmless(MARKUP))
        expect_plain(message)
    expect(page.locator(ACTIVE)).to_have_count(0)


def test_scripts_in_messages_and_answers_are_words(page: Page, app: App) -> None:
    for message in said_and_answered(page, app, "\n\n".join(SCRIPTS)):
        for script in SCRIPTS[:-1]:
            expect(message).to_contain_text(harmless(script.replace("&gt;", ">")))
        expect(message.locator("pre")).to_have_text("graph TD; A[<img src=x onerror=alert(8)>]")
        expect_plain(message)
    assert copy_answer(page) == "\n\n".join(SCRIPTS)


def test_a_link_to_no_page_leads_nowhere(page: Page, app: App) -> None:
    for message in said_and_answered(page, app, "\n\n".join(DEAD_LINKS)):
        expect(message).to_contain_text("nested a")
        expect(message.locator("a[href]")).to_have_count(0)
        message.get_by_text("a script").click()
        expect_plain(message)


def test_pictures_are_links_that_name_their_host_and_nothing_is_fetched(page: Page, app: App, canary: Canary) -> None:
    there = f"127.0.0.1:{canary.server_port}"
    text = "\n\n".join(PICTURES).format(there=f"http://{there}")
    for message in said_and_answered(page, app, text):
        for words in ("a picture", "by name", "a badge"):
            expect(message.get_by_role("link", name=f"{words} ({there})")).to_be_visible()
        expect_plain(message)
    assert copy_answer(page) == text
    assert canary.asked == []


def test_what_would_be_shown_from_elsewhere_is_words_and_nothing_is_fetched(
    page: Page, app: App, canary: Canary
) -> None:
    media = [one.format(there=f"http://127.0.0.1:{canary.server_port}") for one in MEDIA]
    for message in said_and_answered(page, app, "\n\n".join(media)):
        for one in media:
            expect(message).to_contain_text(harmless(one))
        expect_plain(message)
    assert copy_answer(page) == "\n\n".join(media)
    assert canary.asked == []


def test_a_link_tells_its_host_where_its_text_does_not(page: Page, app: App) -> None:
    for message in said_and_answered(page, app, "\n\n".join(HOSTS)):
        links = message.locator("a")
        expect(links).to_have_count(len(HOSTS))
        for link, host in zip(links.all(), HOSTS.values(), strict=True):
            expect(link).to_have_attribute("target", "_blank")
            expect(link).to_have_attribute("rel", "noopener noreferrer")
            after = link.evaluate("(link) => getComputedStyle(link, '::after').content")
            assert after == (f'"({host})"' if host else "none")
    ask(page, "And now?")
    expect(answers(page).first.locator("a[data-host]")).to_have_count(4)


def test_what_is_selected_and_copied_is_what_was_said(page: Page, app: App) -> None:
    message, _ = said_and_answered(page, app, f"Look: <b class='x'> ![dot](https://a.example/) a{JOINER}b")
    expect(message).to_contain_text("dot")
    page.evaluate("(part) => getSelection().selectAllChildren(part)", message.locator("p").element_handle())
    page.keyboard.press("Control+C")
    assert copied(page) == f"Look: <b class='x'> !dot a{JOINER}b"


def test_what_is_edited_is_what_was_said(page: Page, app: App) -> None:
    said_and_answered(page, app, "Look: <b class='x'>")
    page.locator("#chat-turns .user-row + .message-buttons").get_by_label("Edit").click()
    field = page.locator("#chat-turns .edit-textarea")
    field.press("End")
    expect(field).to_have_value("Look: <b class='x'>")
    field.press_sequentially(" twice")
    page.locator("#chat-turns").get_by_label("Submit").click()
    expect(answers(page)).to_have_text(harmless("Look: <b class='x'> twice"))
    assert copy_answer(page) == "Look: <b class='x'> twice"


def test_html_in_code_is_coloured_and_copied(page: Page, app: App) -> None:
    for message in said_and_answered(page, app, f"So:\n\n```html\n{CODE}\n```"):
        expect(message.locator("code .token.tag").first).to_be_visible()
        expect(message.locator("pre")).to_have_text(CODE)
        message.hover()
        message.locator(".copy_code_button").click()
        assert copied(page) == CODE


@pytest.mark.parametrize("language", ["cpp", "constructor", "typescript"])
def test_code_that_cannot_be_coloured_is_shown(page: Page, app: App, language: str) -> None:
    for message in said_and_answered(page, app, f"So:\n\n```{language}\nvector<int> x;\n```"):
        expect(message.locator("pre")).to_have_text("vector<int> x;")


def test_a_table_may_break_its_lines_and_formulas_are_drawn(page: Page, app: App) -> None:
    text = "| a | b |\n|---|---|\n| one<br>two | H<sub>2</sub>O |\n\n\\(a<b\\) and \\(a < b\\) and $$x<y$$"
    for message in said_and_answered(page, app, text):
        expect(message.locator("td br")).to_have_count(1)
        expect(message.locator("td sub")).to_have_text("2")
        expect(message.locator(".katex .mrel")).to_have_text(["<", "<", "<"])
        expect(message.locator(".katex-error")).to_have_count(0)
    assert copy_answer(page) == text


def test_markup_in_an_answer_that_is_being_written_runs_nothing(page: Page, app: App) -> None:
    path = write_tiny_gguf(app.folder / "endless script.gguf", f"Look: {MARKUP} again ", endless=True, layers=8)
    app.write_model("endless script", path)
    open_tab(page, "Models")
    page.locator("#reload-models").click()
    load(page, app, "endless script")
    open_tab(page, "Chat")
    send(page, "Go")
    expect(live(page)).to_contain_text(harmless(MARKUP))
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
