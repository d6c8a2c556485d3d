"""The story of a newcomer with a GGUF file: register, load, chat, set parameters, save, and find it all tomorrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from page_kit import (
    App,
    answers,
    ask,
    choose,
    figures,
    first_steps,
    load,
    open_tab,
    register,
    running,
    send,
    set_parameter,
    status,
    stop,
    unfold_advanced,
    users,
    visit,
    watch_steps,
)
from playwright.sync_api import BrowserContext, Page, expect
from tiny_gguf import COUNTING_ANSWER, write_tiny_gguf

SET = {"temperature": "0.5", "n_ctx": "1024", "max_tokens": "9", "stop": "nine"}
COMMENTED = """\
# a file with remarks
backend: llama.cpp  # the engine
path: {path}
parameters:
  n_threads: 1  # the others are busy
  n_ctx: 512
my_own_key: stays
"""


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    write_tiny_gguf(folder / "counting model.gguf", COUNTING_ANSWER, endless=True, layers=8, n_ctx_train=4096)
    with running(App(folder)) as app:
        yield app


def registered(page: Page, app: App) -> None:
    """Have the model registered, as the first test does."""
    if not app.file_of("counting model").exists():
        register(page, str(app.folder / "counting model.gguf"))
        expect(page.locator("#register-notice")).to_contain_text("Registered 'counting model'.")
        open_tab(page, "Chat")


def commented(page: Page, app: App) -> str:
    """Have a model whose file a person wrote by hand, and return its name."""
    path = app.folder / "counting model.gguf"
    app.file_of("by hand").write_text(COMMENTED.format(path=path), "utf-8")
    open_tab(page, "Models")
    page.locator("#reload-models").click()
    expect(page.locator("#models-list")).to_contain_text("by hand")
    return "by hand"


def test_an_empty_page_says_what_to_do_first(page: Page) -> None:
    expect(status(page)).to_contain_text("nothing loaded")
    expect(page.locator("#chat-log")).to_contain_text(
        "In Models, register a model, if there is none yet: a GGUF file, by its path."
    )
    open_tab(page, "Models")
    expect(page.locator("#model-card")).to_contain_text("No model is registered yet.")
    open_tab(page, "Parameters")
    expect(page.get_by_text("Register a model in the Models tab, then set its parameters here.")).to_be_visible()


def test_a_newcomer_registers_a_file_loads_it_and_sees_its_answer_grow(page: Page, app: App) -> None:
    registered(page, app)
    page.locator("#load-model").click()  # the new model is the chosen one
    expect(status(page)).to_contain_text("ready")
    app.loaded = "counting model"
    watch_steps(page)
    send(page, "Count to ten, please")
    assert len(set(first_steps(page, 3))) >= 3
    stop(page)
    expect(users(page)).to_have_text("Count to ten, please")
    expect(answers(page)).to_contain_text("one two three four")
    expect(figures(page)).to_contain_text("stopped")


def test_the_model_card_shows_what_the_file_says(page: Page, app: App) -> None:
    registered(page, app)
    open_tab(page, "Models")
    page.locator("#models-list").get_by_text("counting model").click()
    card = page.locator("#model-card")
    for fact in ("Tiny test model", "llama", "F32", "19.9 MB", "4,096 tokens", "counting model.gguf"):
        expect(card).to_contain_text(fact)
    expect(card.locator("tr").filter(has_text="Layers")).to_contain_text("8")


def test_parameters_set_in_the_page_hold_at_once(page: Page, app: App) -> None:
    registered(page, app)
    load(page, app, "counting model")
    open_tab(page, "Parameters")
    set_parameter(page, "max_tokens", "5")
    open_tab(page, "Chat")
    ask(page, "Count")
    expect(answers(page)).to_have_text("one two three four five")
    expect(figures(page)).to_contain_text("stopped at 5 tokens")


def test_saved_parameters_survive_a_restart_and_the_file_keeps_its_comments(
    page: Page, app: App, context: BrowserContext
) -> None:
    name = commented(page, app)
    save_parameters(page, name)
    check_file(app, name)
    (app.config / "settings.yaml").write_text(f"default_model: {name}\n", "utf-8")
    page.close()
    app.restart()
    page = visit(context, app)
    expect(status(page)).to_contain_text("ready · 19.9 MB · on CPU · 1,024 tokens")  # nobody pressed Load
    ask(page, "Count")
    expect(answers(page)).to_have_text("one two three four five six seven eight")
    check_parameters(page)


def save_parameters(page: Page, name: str) -> None:
    open_tab(page, "Parameters")
    choose(page, name)
    window = page.locator("#param-n_ctx input[type=number]")
    expect(window).to_have_value("512")  # the controls are this model's by now
    window.fill(SET["n_ctx"])
    set_parameter(page, "temperature", SET["temperature"])
    set_parameter(page, "max_tokens", SET["max_tokens"])
    unfold_advanced(page)
    set_parameter(page, "stop", SET["stop"])
    page.locator("#save-parameters").click()
    expect(page.locator("#parameters-notice")).to_contain_text(f"Saved to {name}.yaml.")


def check_file(app: App, name: str) -> None:
    text = app.file_of(name).read_text("utf-8")
    for kept in ("# a file with remarks", "# the engine", "# the others are busy", "my_own_key: stays"):
        assert kept in text
    expected = {"n_threads": 1, "n_ctx": 1024, "temperature": 0.5, "max_tokens": 9, "stop": ["nine"]}
    assert yaml.safe_load(text)["parameters"] == expected


def check_parameters(page: Page) -> None:
    open_tab(page, "Parameters")
    unfold_advanced(page)
    for name, value in SET.items():
        control = page.locator(f"#param-{name}")
        expect(control.locator("input[type=number], textarea").first).to_have_value(value)
        expect(control).to_contain_text("Set by by hand.yaml line")
