"""The real app in a process of its own, and what a person does with its page, for tests with a browser."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from canary_kit import look_at
from playwright.sync_api import (
    Browser,
    BrowserContext,
    BrowserType,
    Dialog,
    Error,
    Locator,
    Page,
    Request,
    Response,
    expect,
)

ROOT = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_FLAGS = (
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
SAID = ":not([aria-label$='component of type html'], [aria-label='About this message'])"  # not what the page adds
PATIENCE = 15_000  # milliseconds; two busy cores may be slow, only what is promised is measured
START_SECONDS = 90
SPACE_PORT = 7860  # its address says none
expect.set_options(timeout=PATIENCE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Program:
    """`python app.py` as a subprocess; `output` is what it has said so far."""

    def __init__(self, *flags: str, env: Mapping[str, str] | None = None) -> None:
        self.output = ""
        self._said = threading.Condition()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("GRADIO_", "LLAMAFORGE_"))}
        self._data = tempfile.TemporaryDirectory(prefix="llamaforge-data-")  # never the person's own chats
        clean["XDG_DATA_HOME"] = self._data.name
        self.process = subprocess.Popen(
            [sys.executable, "app.py", *flags],
            cwd=ROOT,
            env={**clean, "PYTHONUNBUFFERED": "1", **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str, seconds: float = START_SECONDS) -> str:
        """Wait until the program has said a text; return the line that holds it."""
        with self._said:
            self._said.wait_for(lambda: text in self.output or not self._reader.is_alive(), seconds)
        lines = [line for line in self.output.splitlines() if text in line]
        assert lines, f"the app did not say {text!r} within {seconds} s, but:\n{self.output}"
        return lines[0]

    def wait_until_up(self) -> str:
        """Wait for the page and return its address."""
        return self.wait_for("LlamaForge is at ").rsplit(" ", 1)[1].rstrip("/")

    def ended(self, seconds: float = START_SECONDS) -> int:
        """Wait for the end and return the exit code."""
        code = self.process.wait(seconds)
        self._reader.join()
        return code

    def stop(self, name: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(name)
        try:
            return self.ended(10)
        finally:
            self.process.kill()  # harmless when it has ended

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                with self._said:
                    self.output += line
                    self._said.notify_all()
        self._data.cleanup()
        look_at(self.output, f"output of app.py {' '.join(map(str, self.process.args[2:]))}")  # type: ignore[index]
        with self._said:
            self._said.notify_all()


class App:
    """The app on a config folder of its own, ready for visitors; it may be started anew on the same folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "config"
        self.loaded: str | None = None  # what the tests loaded last, to load no model twice
        (self.config / "models").mkdir(parents=True, exist_ok=True)

    def start(self, *flags: str, env: Mapping[str, str] | None = None) -> App:
        places = ("--config", str(self.config), "--data", str(self.folder / "data"), "--port", str(free_port()))
        self.program = Program(*places, *flags, env=env)
        # By number: what listens everywhere says a name, and Watch knows only this one.
        self.url = f"http://127.0.0.1:{urlsplit(self.program.wait_until_up()).port or SPACE_PORT}"
        return self

    def restart(self) -> None:
        assert self.program.stop() == 0
        self.loaded = None
        self.start()

    def file_of(self, name: str) -> Path:
        return self.config / "models" / f"{name}.yaml"

    def write_model(self, name: str, path: Path, **parameters: Any) -> Path:
        """Write a model's file by hand; one thread, since tests share the machine."""
        settings = {"backend": "llama.cpp", "path": str(path), "parameters": {"n_threads": 1, **parameters}}
        file = self.file_of(name)
        file.write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
        return file


def launch_browser(chromium: BrowserType, *flags: str) -> Browser:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    assert path is not None, f"The browser tests need one of {', '.join(BROWSERS)}. Install it: apt install chromium."
    return chromium.launch(executable_path=path, args=[*BROWSER_FLAGS, *flags])


TEXTS = ("text/", "json", "javascript", "xml")  # as in "Content-Type: application/json"
# What Gradio's own client says about the stream that it aborts when its page is left.
LEAVING = ("AbortError: signal is aborted without reason", "Unexpected error Connection errored out")


class Watch:
    """Notes what no page may do: errors, dialogs, requests that leave the machine, and secrets in what it is sent."""

    def __init__(self, context: BrowserContext) -> None:
        self.seen: list[str] = []
        self.secrets: list[bytes] = []  # of a test, beside the canaries
        self.searched = 0
        context.on("console", lambda message: self._note("console", message.text) if message.type == "error" else None)
        context.on("weberror", lambda error: self._note("page error", str(error.error)))
        context.on("request", self._look_at)
        context.on("response", self._read)
        context.on("dialog", self._close)

    def forget_leaving(self) -> None:
        """Forget what Gradio says when a page is left; call it after a reload has been seen to work."""
        self.seen = [text for text in self.seen if not any(known in text for known in LEAVING)]

    def _note(self, kind: str, text: str) -> None:
        self.seen.append(f"{kind}: {text}")

    def _look_at(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1":
            self._note("request", request.url)

    def _read(self, response: Response) -> None:
        kind = response.headers.get("content-type", "")
        if not any(text in kind for text in TEXTS):
            return
        with contextlib.suppress(Error):  # the page was left meanwhile
            self._search(response.body(), f"response from {urlsplit(response.url).path}")

    def look_at_pages(self, context: BrowserContext) -> None:
        """Search what the pages show now, which may have come by a stream that has no end yet."""
        for page in context.pages:
            self._search(page.content().encode(), "page")

    def _search(self, text: bytes, place: str) -> None:
        self.searched += 1
        look_at(text, place)
        if any(secret in text for secret in self.secrets):
            self._note("secret", place)

    def _close(self, dialog: Dialog) -> None:
        self._note("dialog", dialog.message)
        dialog.dismiss()


def visit(context: BrowserContext, app: App) -> Page:
    """Open the page and wait until it can be used."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(app.url)
    expect(box(page)).to_be_editable()
    expect(page.locator("#model-status .lf-status")).to_be_visible()
    return page


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def choose(page: Page, name: str) -> None:
    """Choose a model in the bar."""
    field = page.get_by_role("combobox", name="Model", exact=True)
    if field.input_value() != name:
        field.click()
        page.get_by_role("option", name=name, exact=True).click()
        expect(field).to_have_value(name)


def load(page: Page, app: App, name: str) -> None:
    """Have a model loaded, through the bar."""
    choose(page, name)
    if app.loaded == name:
        return
    unload = page.locator("#unload-model")
    if unload.is_enabled():
        unload.click()
        expect(unload).to_be_disabled()
    page.locator("#load-model").click()
    expect(unload).to_be_enabled()
    expect(status(page)).to_contain_text("ready")
    app.loaded = name


def status(page: Page) -> Locator:
    return page.locator("#model-status")


def box(page: Page) -> Locator:
    return page.locator("#chat-input textarea")


def send(page: Page, text: str) -> None:
    box(page).fill(text)
    box(page).press("Enter")


def users(page: Page) -> Locator:
    """The visitor's messages, the one that is being answered among them."""
    return page.locator(f"#chat-turns [data-testid=user]{SAID}, #live-question .md:has(> *)")


def answers(page: Page) -> Locator:
    """The committed answers, without thoughts and figures."""
    return page.locator(f"#chat-turns [data-testid=bot]:not(:has(.thought-group)){SAID}")


def thoughts(page: Page) -> Locator:
    """What a reasoning model thought before its answer; folded."""
    return page.locator("#chat-turns .thought-group")


def figures(page: Page) -> Locator:
    """The lines under the answers: tokens, times, why it ended; folded in them, the details."""
    return page.locator("#chat-turns .lf-tail details")


def live(page: Page) -> Locator:
    return page.locator("#live-turn .md")


def notice(page: Page) -> Locator:
    return page.locator("#chat-notice")


def ask(page: Page, text: str) -> None:
    """Send a message and wait for the end of its answer."""
    before = answers(page).count()
    send(page, text)
    expect(answers(page)).to_have_count(before + 1)
    expect(page.locator("#send")).to_be_visible()


def expect_labels(page: Page) -> None:
    """Expect the buttons of the chat to say what they do."""
    for name, label in {"send": "Send", "regenerate": "Regenerate", "undo": "Undo", "new-chat": "New chat"}.items():
        expect(page.locator(f"#{name}")).to_have_text(label)


def stop(page: Page) -> float:
    """Press Stop and return the seconds until the page is free again."""
    pressed = time.monotonic()
    page.locator("#stop").click()
    expect(page.locator("#send")).to_be_visible()
    return time.monotonic() - pressed


def watch_steps(page: Page) -> None:
    """From now on note every text that the live answer has on the page."""
    page.evaluate(
        """() => {
            window.steps = [];
            const place = document.getElementById("live-turn");
            const note = () => {
                const text = (place.querySelector(".md")?.textContent ?? "").trim();
                if (text && text !== window.steps.at(-1)) window.steps.push(text);
            };
            new MutationObserver(note).observe(place, {childList: true, subtree: true, characterData: true});
        }"""
    )


def first_steps(page: Page, count: int) -> list[str]:
    """Wait until the live answer has had so many different texts and return them in order."""
    page.wait_for_function("(count) => window.steps.length >= count", arg=count)
    texts: list[str] = page.evaluate("() => window.steps")
    return texts


def prompt_tokens(page: Page) -> int:
    """Return the prompt's tokens from the details of the last answer, opening them where they are folded."""
    last = figures(page).last
    if last.get_attribute("open") is None:
        last.locator("summary").click()
    found = re.search(r"Prompt: ([\d,]+) tokens", last.inner_text())
    assert found, last.inner_text()
    return int(found[1].replace(",", ""))


def type_parameter(page: Page, name: str, text: str) -> Locator:
    """Type a value into a parameter's box and leave it; return the control."""
    # Gradio shows a control a moment before it listens to it.
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    control = page.locator(f"#param-{name}")
    field = control.locator("input[type=number], input[type=text], textarea").first
    field.press_sequentially(text) if name == "stop" else field.fill(text)
    field.blur()
    return control


def set_parameter(page: Page, name: str, text: str) -> None:
    """Give a parameter that was not set a value."""
    expect(type_parameter(page, name, text)).to_have_class(re.compile("lf-set"))


def unfold_advanced(page: Page) -> None:
    page.locator("#params-advanced").get_by_role("button", name="Advanced").click()
    expect(page.locator("#param-seed")).to_be_visible()


def register(page: Page, path: str, name: str = "") -> None:
    """Fill in the form of the Models tab and press Register."""
    open_tab(page, "Models")
    page.locator("#register-path textarea").fill(path)
    page.locator("#register-name textarea").fill(name)
    page.locator("#register-model").click()


def open_system_prompt(page: Page) -> Locator:
    """Unfold the system prompt and return its box."""
    page.get_by_role("button", name="System prompt").click()
    return page.locator("#system-prompt textarea")


def edit_message(page: Page, row: str, text: str) -> None:
    """Edit the last message of a row kind ("user-row" or "bot-row") that has a pencil."""
    expect(page.locator("#chat-turns .lf-tail").last).to_be_visible()  # the buttons of its row are gone by then
    page.locator(f"#chat-turns .{row} + .message-buttons [aria-label=Edit]:visible").last.click()
    page.locator("#chat-turns .edit-textarea").fill(text)
    page.locator("#chat-turns").get_by_label("Submit").click()


@contextlib.contextmanager
def running(app: App, *flags: str, env: Mapping[str, str] | None = None) -> Iterator[App]:
    """Run an app; it must end cleanly."""
    try:
        yield app.start(*flags, env=env)
    finally:
        code = app.program.stop()
    assert code == 0, app.program.output
