"""Presets on the page: saved from what a chat sets, applied to a model, told of at every control, deleted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_kit import App, open_tab, running, set_parameter, type_parameter, unfold_advanced, visit
from page_kit import choose as choose_model
from playwright.sync_api import BrowserContext, Locator, Page, expect
from tiny_gguf import write_tiny_gguf

CALM = "# For the evening.\ntemperature: 0.3  # low\ntop_k: 7\n"
NOTICE = "#parameters-notice"


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    app = App(folder)
    app.write_model("tiny", write_tiny_gguf(folder / "tiny.gguf"), n_ctx=512, temperature=0.9)
    app.file_of("words").write_text("backend: echo\npath: here\n", "utf-8")
    (app.config / "presets").mkdir()
    for name in ("calm", "old"):
        preset_file(app, name).write_text(CALM, "utf-8")
    with running(app):
        yield app


@pytest.fixture
def page(page: Page) -> Page:
    return parameters_of(page, "tiny")


def preset_file(app: App, name: str) -> Path:
    return app.config / "presets" / f"{name}.yaml"


def parameters_of(page: Page, model: str) -> Page:
    """Show the controls of a model, and wait for one that no other model has."""
    open_tab(page, "Parameters")
    choose_model(page, model)
    own = {"tiny": "temperature", "words": "tokens_per_second"}[model]
    expect(page.locator(f"#param-{own}")).to_be_visible()
    return page


def choice(page: Page, name: str) -> Locator:
    """Open the list of presets and return one that it offers or not."""
    page.locator("#preset-select input").click()
    return page.get_by_role("option", name=name, exact=True)


def apply(page: Page, name: str) -> None:
    choose(page, name)
    page.locator("#apply-preset").click()


def choose(page: Page, name: str) -> None:
    choice(page, name).click()
    expect(page.locator("#preset-select input")).to_have_value(name)


def save_as(page: Page, name: str) -> None:
    page.locator("#preset-name").locator("input, textarea").fill(name)
    page.locator("#save-preset").click()


def test_a_preset_is_applied_and_told_at_each_control(page: Page, app: App) -> None:
    apply(page, "calm")
    expect(page.locator(NOTICE)).to_contain_text("Applied preset calm: temperature 0.3, top_k 7.")
    temperature = page.locator("#param-temperature")
    expect(temperature.locator("input[type=number]")).to_have_value("0.3")
    expect(temperature).to_contain_text("Set by preset calm (tiny.yaml line 6 says 0.9).")
    expect(temperature).to_have_class(re.compile("lf-set"))
    expect(page.locator("#param-top_p")).to_contain_text("Not set: 0.95 is used (the engine's default).")
    unfold_advanced(page)
    expect(page.locator("#param-top_k")).to_contain_text("Set by preset calm.")


def test_a_value_that_is_typed_is_no_longer_the_presets(page: Page, app: App) -> None:
    apply(page, "calm")
    expect(page.locator("#param-temperature")).to_contain_text("Set by preset calm")
    type_parameter(page, "temperature", "0.5")
    expect(page.locator("#param-temperature")).to_contain_text("Set by this chat (tiny.yaml line 6 says 0.9).")
    page.locator("#reset-parameters").click()
    expect(page.locator("#param-temperature")).to_contain_text("Set by tiny.yaml line 6.")


def test_what_is_set_here_is_saved_as_a_preset_that_outlasts_a_restart(
    page: Page, app: App, context: BrowserContext
) -> None:
    set_parameter(page, "max_tokens", "5")
    save_as(page, "short one")
    expect(page.locator(NOTICE)).to_contain_text("Saved as preset short one: max_tokens 5.")
    expect(page.locator("#preset-select input")).to_have_value("short one")
    assert preset_file(app, "short one").read_text("utf-8") == "max_tokens: 5\n"
    page.close()
    app.restart()
    again = parameters_of(visit(context, app), "tiny")
    apply(again, "short one")
    expect(again.locator("#param-max_tokens")).to_contain_text("Set by preset short one.")


def test_a_preset_is_replaced_only_by_a_second_press_and_keeps_its_comments(page: Page, app: App) -> None:
    preset_file(app, "written by hand").write_text(CALM, "utf-8")
    type_parameter(page, "temperature", "0.6")
    expect(page.locator("#param-temperature")).to_contain_text("Set by this chat")
    save_as(page, "written by hand")
    expect(page.locator(NOTICE)).to_contain_text("There is a preset written by hand already.")
    assert preset_file(app, "written by hand").read_text("utf-8") == CALM
    page.locator("#save-preset").click()
    expect(page.locator(NOTICE)).to_contain_text("Saved as preset written by hand: temperature 0.6.")
    assert preset_file(app, "written by hand").read_text("utf-8") == "# For the evening.\ntemperature: 0.6  # low\n"


def test_a_deleted_preset_is_in_no_list_and_in_the_trash(page: Page, app: App) -> None:
    choose(page, "old")
    page.locator("#delete-preset").click()
    expect(page.locator(NOTICE)).to_contain_text("Deleted preset old.")
    expect(page.locator("#preset-select input")).to_have_value("")
    expect(choice(page, "old")).to_have_count(0)
    assert not preset_file(app, "old").exists()


def test_a_preset_that_another_window_saved_is_in_the_list(page: Page, app: App, context: BrowserContext) -> None:
    other = parameters_of(visit(context, app), "tiny")
    set_parameter(page, "max_tokens", "9")
    save_as(page, "theirs")
    expect(page.locator(NOTICE)).to_contain_text("Saved as preset theirs")
    apply(other, "theirs")
    expect(other.locator("#param-max_tokens")).to_contain_text("Set by preset theirs.")


def test_what_a_model_does_not_take_is_told(page: Page, app: App) -> None:
    parameters_of(page, "words")
    apply(page, "calm")
    left_out = "Left out: temperature, top_k (echo has no such parameter)."
    expect(page.locator(NOTICE)).to_contain_text(f"Preset calm has nothing for words. {left_out}")


@pytest.mark.parametrize("context", [{"viewport": {"width": 390, "height": 844}}], indirect=True, ids=["phone"])
def test_the_row_fits_a_phone(page: Page, app: App) -> None:
    apply(page, "calm")
    expect(page.locator("#param-temperature")).to_contain_text("Set by preset calm")
    for name in ("preset-select", "apply-preset", "preset-name", "save-preset", "delete-preset"):
        expect(page.locator(f"#{name}")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
