"""The Parameters tab: controls that fit the model, and values that arrive however they are entered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from page_kit import App, choose, load, open_tab, running, set_parameter, type_parameter, unfold_advanced, visit
from playwright.sync_api import BrowserContext, Page, expect
from tiny_gguf import write_tiny_gguf

SIMPLE = ("temperature", "max_tokens", "n_gpu_layers", "n_ctx")
ADVANCED = ("top_p", "top_k", "min_p", "repeat_penalty", "seed", "stop", "n_batch", "f16_kv", "flash_attn")
NOTICE = "#parameters-notice"


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    app = App(folder)
    app.write_model("tiny", write_tiny_gguf(folder / "tiny.gguf", layers=3, n_ctx_train=4096), n_ctx=1024)
    with running(app):
        yield app


@pytest.fixture
def page(page: Page) -> Page:
    open_tab(page, "Parameters")
    expect(page.locator("#param-temperature")).to_be_visible()
    return page


def parameters_of(app: App) -> dict[str, object]:
    parameters: dict[str, object] = yaml.safe_load(app.file_of("tiny").read_text("utf-8"))["parameters"]
    return parameters


def save(page: Page) -> None:
    page.locator("#save-parameters").click()
    expect(page.locator(NOTICE)).to_contain_text("Saved to tiny.yaml.")


def test_the_simple_ones_come_first_and_all_others_behind_advanced(page: Page) -> None:
    for name in SIMPLE:
        expect(page.locator(f"#param-{name}")).to_be_visible()
    for name in ("seed", "stop", "n_batch"):
        expect(page.locator(f"#param-{name}")).not_to_be_visible()
    unfold_advanced(page)
    for name in ADVANCED:
        expect(page.locator(f"#param-{name}")).to_have_count(1)
    expect(page.locator("#params-advanced #param-top_k")).to_be_visible()


def test_sliders_end_where_the_model_ends(page: Page, app: App) -> None:
    load(page, app, "tiny")
    expect(page.locator("#param-n_gpu_layers input[type=range]")).to_have_attribute("max", "3")
    expect(page.locator("#param-max_tokens input[type=range]")).to_have_attribute("max", "1024")
    expect(page.locator("#param-temperature input[type=range]")).to_have_attribute("max", "2")


def test_parameters_of_loading_say_so_and_the_others_do_not(page: Page) -> None:
    expect(page.locator("#param-n_ctx")).to_contain_text("Takes effect at the next load.")
    expect(page.locator("#param-temperature")).not_to_contain_text("Takes effect at the next load.")


def test_a_control_says_where_its_value_comes_from(page: Page) -> None:
    expect(page.locator("#param-n_ctx")).to_contain_text("Set by tiny.yaml line 5.")
    expect(page.locator("#param-temperature")).to_contain_text("Not set: 0.8 is used (the engine's default).")


def test_a_number_may_be_typed_digit_by_digit(page: Page, app: App) -> None:
    field = page.locator("#param-n_ctx input[type=number]")
    field.press("Control+A")
    field.press_sequentially("2048")
    field.blur()
    save(page)
    expect(page.locator("#param-n_ctx input[type=number]")).to_have_value("2048")
    assert parameters_of(app)["n_ctx"] == 2048


def test_what_is_pasted_into_stop_arrives(page: Page, app: App) -> None:
    unfold_advanced(page)
    field = page.locator("#param-stop textarea")
    field.fill("END\nuser:")  # as pasting does: no key is pressed
    field.blur()
    expect(page.locator("#param-stop")).to_have_class(re.compile("lf-set"))
    save(page)
    assert parameters_of(app)["stop"] == ["END", "user:"]


def test_a_number_that_nobody_set_is_an_empty_box(page: Page) -> None:
    unfold_advanced(page)
    expect(page.locator("#param-seed textarea, #param-seed input")).to_have_value("")


def test_an_emptied_slider_box_unsets_the_parameter(page: Page, app: App) -> None:
    set_parameter(page, "temperature", "0.3")
    save(page)
    expect(page.locator("#param-temperature")).to_contain_text("Set by tiny.yaml")
    type_parameter(page, "temperature", "")
    expect(page.locator("#param-temperature")).to_have_class(re.compile("lf-unset"))
    expect(page.locator("#param-temperature input[type=number]")).to_have_value("0.8")
    save(page)
    assert "temperature" not in parameters_of(app)


def test_a_slider_moved_with_the_keyboard_is_saved(page: Page, app: App) -> None:
    slider = page.locator("#param-temperature input[type=range]")
    slider.focus()
    slider.press("ArrowLeft")
    expect(page.locator("#param-temperature")).to_have_class(re.compile("lf-set"))
    save(page)
    assert parameters_of(app)["temperature"] == pytest.approx(0.75)


def test_reset_goes_back_to_what_the_file_says(page: Page, app: App) -> None:
    before = app.file_of("tiny").read_bytes()
    set_parameter(page, "max_tokens", "77")
    expect(page.locator("#param-max_tokens")).to_have_class(re.compile("lf-set"))
    page.locator("#reset-parameters").click()
    expect(page.locator(NOTICE)).to_contain_text("Back to what tiny.yaml says.")
    expect(page.locator("#param-max_tokens")).to_have_class(re.compile("lf-unset"))
    assert app.file_of("tiny").read_bytes() == before


def test_a_number_box_refuses_what_is_out_of_range(page: Page, app: App) -> None:
    unfold_advanced(page)
    type_parameter(page, "seed", "-5")
    expect(page.locator(NOTICE)).to_contain_text("seed must be a whole number from 0 to 4,294,967,294, found -5.")
    page.locator("#save-parameters").click()
    expect(page.locator(NOTICE)).to_contain_text("Not saved")
    assert "seed" not in parameters_of(app)


def test_a_slider_box_says_what_is_out_of_range(page: Page) -> None:
    field = type_parameter(page, "temperature", "9").locator("input[type=number]")
    expect(page.locator(NOTICE)).to_contain_text("temperature must be a number from 0 to 2, found 9.")
    expect(field).to_have_value("2")
    page.locator("#reset-parameters").click()


def test_what_is_saved_is_what_the_box_shows(page: Page, app: App) -> None:
    load(page, app, "tiny")
    field = type_parameter(page, "max_tokens", "99999").locator("input[type=number]")
    expect(page.locator(NOTICE)).to_contain_text("max_tokens may be at most 1,024 here, found 99999.")
    expect(field).to_have_value("1024")
    save(page)
    assert parameters_of(app)["max_tokens"] == 1024


def test_a_value_that_another_page_saved_is_not_overwritten_unasked(
    page: Page, app: App, context: BrowserContext
) -> None:
    other = visit(context, app)
    open_tab(other, "Parameters")
    set_parameter(page, "top_p", "0.3")
    set_parameter(other, "top_p", "0.4")
    save(page)
    other.locator("#save-parameters").click()
    expect(other.locator(NOTICE)).to_contain_text("tiny.yaml was changed elsewhere: top_p is 0.3 there now.")
    assert parameters_of(app)["top_p"] == 0.3
    save(other)
    assert parameters_of(app)["top_p"] == 0.4


def test_what_was_edited_elsewhere_is_shown(page: Page, app: App) -> None:
    app.write_model("tiny", app.folder / "tiny.gguf", n_ctx=1024, temperature=0.15)
    open_tab(page, "Models")
    page.locator("#reload-models").click()
    open_tab(page, "Parameters")
    expect(page.locator("#param-temperature input[type=number]")).to_have_value("0.15")


def test_a_page_begins_with_the_model_that_is_loaded(page: Page, app: App, context: BrowserContext) -> None:
    app.file_of("a broken one").write_text("backend: [\n", "utf-8")
    open_tab(page, "Models")
    page.locator("#reload-models").click()
    load(page, app, "tiny")
    other = visit(context, app)
    expect(other.get_by_role("combobox", name="Model", exact=True)).to_have_value("tiny")
    app.file_of("a broken one").unlink()
    page.locator("#reload-models").click()


def test_no_control_of_this_model_goes_beyond_its_trained_context(page: Page) -> None:
    expect(page.locator("#param-n_ctx input[type=range]")).to_have_attribute("max", "4096")


def test_another_model_is_drawn_once_whatever_others_do_then(page: Page, app: App, context: BrowserContext) -> None:
    other = visit(context, app)
    open_tab(other, "Models")
    open_tab(page, "Models")
    for name in ("second", "third"):
        app.write_model(name, app.folder / "tiny.gguf", n_ctx=2048)
        other.locator("#reload-models").click()
        expect(page.locator("#models-list")).to_contain_text(name)
        if name == "second":
            choose(page, name)
            open_tab(page, "Parameters")
            expect(page.locator("#param-n_ctx input[type=number]")).to_have_value("2048")
            unfold_advanced(page)
    expect(page.locator("#param-seed")).to_be_visible()
    for name in ("second", "third"):
        app.file_of(name).unlink()
