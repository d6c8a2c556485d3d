"""A plugin is switched on for a model on the page; its effect and its note are seen there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from page_kit import App, Watch, answers, ask, choose, load, open_tab, running
from playwright.sync_api import Locator, Page, expect
from plugin_kit import install_example

MODEL = """backend: echo
path: x  # nothing is read
plugins:
  template:
    user: "{message} Please."  # politely
    enabled: false
  trimmer:
    turns: 1
    enabled: false
"""
BROKEN = """
from llamaforge import Plugin, register_plugin


class Broken(Plugin):
    api = 1

    def before(self, messages):
        raise ValueError("out of luck")

    after = before


class BrokenLater(Plugin):
    api = 1

    def after(self, chunks):
        yield next(chunks)
        raise ValueError("out of luck")


register_plugin("broken", Broken)
register_plugin("broken-later", BrokenLater)
"""
SETTINGS = """plugins:
- {name: redactor, enabled: false}
- bad_luck
- {name: broken, enabled: false}
- {name: broken-later, enabled: false}
"""


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    app = App(folder)
    install_example(folder / "site")
    app.file_of("echo").write_text(MODEL, "utf-8")
    (app.config / "plugins").mkdir()
    (app.config / "plugins" / "bad_luck.py").write_text(BROKEN, "utf-8")
    (app.config / "settings.yaml").write_text(SETTINGS, "utf-8")
    with running(app, env={"PYTHONPATH": str(folder / "site")}):
        yield app


def switch(page: Page, name: str, on: bool) -> None:
    """Switch a plugin of the chosen model on the Models tab, and go back to the chat."""
    open_tab(page, "Models")
    box = page.locator(f"#model-plugins input[name={name}]")
    expect(box).to_be_checked(checked=not on)
    box.click()  # not set_checked: the page may draw the row anew in the moment between
    expect(page.locator("#models-notice")).to_contain_text(f"{name} is {'on' if on else 'off'} for echo.")
    expect(box).to_be_checked(checked=on)
    open_tab(page, "Chat")


def notes(page: Page) -> Locator:
    return page.locator("#chat-turns .lf-note")


@pytest.fixture
def ready(page: Page, app: App) -> Page:
    load(page, app, "echo")
    choose(page, "echo")
    return page


def test_a_template_changes_what_is_sent_and_its_switch_keeps_the_files_comments(ready: Page, app: App) -> None:
    switch(ready, "template", on=True)
    text = app.file_of("echo").read_text("utf-8")
    assert "# nothing is read" in text and "# politely\n    enabled: true" in text
    ask(ready, "Hello.")
    expect(answers(ready)).to_have_text("Hello. Please.")
    switch(ready, "template", on=False)
    ask(ready, "Again.")  # the same words within a second are a double click
    expect(answers(ready).last).to_have_text("Again.")


def test_the_trimmer_says_under_the_answer_what_it_left_out(ready: Page, watch: Watch) -> None:
    switch(ready, "trimmer", on=True)
    ask(ready, "One")
    expect(notes(ready)).to_have_count(0)
    ask(ready, "Two")
    expect(notes(ready)).to_have_text("trimmer: 2 older messages were left out.")
    expect(ready.locator("#chat-turns .lf-edge")).to_be_visible()
    ready.reload()
    expect(notes(ready)).to_have_text("trimmer: 2 older messages were left out.")
    watch.forget_leaving()
    switch(ready, "trimmer", on=False)


def test_an_installed_plugin_masks_what_is_said(ready: Page) -> None:
    switch(ready, "redactor", on=True)
    ask(ready, "Write to bob@example.org now")
    expect(answers(ready)).to_have_text("Write to [e-mail] now")
    expect(notes(ready)).to_have_text("redactor: 1 e-mail address was masked.")
    switch(ready, "redactor", on=False)


def test_plugins_that_raise_in_every_hook_are_named_and_harm_nothing(ready: Page) -> None:
    for name in ("broken", "broken-later"):
        switch(ready, name, on=True)
        ask(ready, f"Still here with {name} on")
        expect(answers(ready).last).to_have_text(f"Still here with {name} on")
        expect(notes(ready).last).to_have_text(
            f"Plugin '{name}' failed: ValueError: out of luck. The chat went on without it."
        )
        switch(ready, name, on=False)
