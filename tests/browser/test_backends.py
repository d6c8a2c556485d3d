"""Every kind of model is registered on the page and answers there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai_kit import llama_cpp_server
from page_kit import App, answers, ask, box, choose, load, notice, open_tab, running, send, status
from playwright.sync_api import Page, expect
from tiny_gguf import DEFAULT_ANSWER, write_tiny_gguf
from tiny_hf import write_tiny_hf

MARKED = DEFAULT_ANSWER.split("\n")[-1][:20]


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    app = App(folder)
    write_tiny_hf(folder / "Tiny-1M-Instruct")
    with running(app):
        yield app


def choose_backend(page: Page, name: str) -> None:
    open_tab(page, "Models")
    page.get_by_role("combobox", name="Backend").click()
    page.get_by_role("option", name=name, exact=True).click()


def test_the_form_says_what_a_backend_is_good_at_and_what_it_needs(page: Page) -> None:
    for backend, label in {"huggingface": "Folder or repository", "llama.cpp": "Path"}.items():
        choose_backend(page, backend)
        expect(page.locator("#register-path")).to_contain_text(label)
        expect(page.locator("#register-about")).not_to_be_empty()
    expect(page.locator("#register-file")).to_be_visible()
    choose_backend(page, "huggingface")
    expect(page.locator("#register-file")).to_be_hidden()


@pytest.mark.parametrize(
    ("context", "columns"),
    [({"viewport": {"width": 1280, "height": 900}}, 3), ({"viewport": {"width": 390, "height": 844}}, 1)],
    indirect=["context"],
    ids=["desktop", "phone"],
)
def test_the_form_compares_the_backends_as_far_as_there_is_room(page: Page, columns: int) -> None:
    table = page.get_by_role("table", name="What each backend is good at")
    for backend, privacy in {"openai": "goes to the service", "llama.cpp": "stays on this computer"}.items():
        choose_backend(page, backend)
        expect(table.locator("td.lf-chosen").last).to_have_text(privacy)
        expect(table.locator("tbody tr").last.locator("td:visible")).to_have_count(columns)
    box = table.bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]  # type: ignore[index]


def test_a_hugging_face_folder_is_registered_by_path_and_answers(page: Page, app: App) -> None:
    choose_backend(page, "huggingface")
    page.locator("#register-path textarea, #register-path input").fill(str(app.folder / "Tiny-1M-Instruct"))
    page.locator("#register-model").click()
    expect(page.locator("#register-notice")).to_contain_text("Registered 'Tiny-1M-Instruct'.")
    expect(page.locator("#model-card")).to_contain_text("LlamaForCausalLM")
    load(page, app, "Tiny-1M-Instruct")
    expect(status(page)).to_contain_text("on CPU")
    open_tab(page, "Chat")
    ask(page, "Hello")
    expect(answers(page)).to_contain_text(MARKED)
    open_tab(page, "Parameters")
    expect(page.locator("#param-torch_dtype")).to_contain_text("Takes effect at the next load.")
    expect(page.locator("#param-temperature input[type=number]")).to_have_value("0")


def test_an_endpoint_is_asked_for_its_models_registered_and_answers(page: Page, app: App) -> None:
    with llama_cpp_server(write_tiny_gguf(app.folder / "served.gguf")) as url:
        choose_backend(page, "openai")
        page.get_by_label("Address").fill(url)
        page.locator("#test-connection").click()
        expect(page.locator("#register-notice")).to_contain_text("It answers. It has 1 model; choose one.")
        page.get_by_role("combobox", name="Models of this service").click()
        page.get_by_role("option", name="tiny").click()
        expect(page.locator("#register-path textarea, #register-path input")).to_have_value("tiny")
        page.locator("#register-name textarea, #register-name input").fill("served")
        page.locator("#register-model").click()
        expect(page.locator("#register-notice")).to_contain_text("Registered 'served'.")
        load(page, app, "served")
        expect(status(page)).to_contain_text("127.0.0.1")
        open_tab(page, "Chat")
        ask(page, "Hello")
        expect(answers(page)).to_contain_text(MARKED)
    ask_in_vain(page)


def ask_in_vain(page: Page) -> None:
    """Send a message to a service that is gone: a sentence says so, and the message stays."""
    send(page, "Are you there?")
    expect(notice(page)).to_contain_text("127.0.0.1")
    expect(box(page)).to_have_value("Are you there?")


def test_a_key_is_named_and_never_taken(page: Page, app: App) -> None:
    choose_backend(page, "openai")
    page.locator("#register-path textarea, #register-path input").fill("gpt-4o-mini")
    page.get_by_label("Key's environment variable").fill("sk-very-secret-canary")
    page.locator("#register-model").click()
    expect(page.locator("#register-notice")).to_contain_text("Give the name of the environment variable")
    page.get_by_label("Key's environment variable").fill("CANARY_API_KEY")
    page.locator("#register-model").click()
    expect(page.locator("#register-notice")).to_contain_text("CANARY_API_KEY is not set")
    assert not app.file_of("gpt-4o-mini").exists()


def test_what_a_service_decides_is_an_empty_box_and_a_key_is_not_shown(page: Page, app: App) -> None:
    text = "backend: openai\npath: gpt-4o-mini\nparameters:\n  api_key: ${OPENAI_API_KEY}\n  top_p: 0.5\n"
    app.file_of("remote").write_text(text, "utf-8")
    open_tab(page, "Models")
    page.locator("#reload-models").click()
    choose(page, "remote")
    open_tab(page, "Parameters")
    for name, value in {"temperature": "", "max_tokens": "", "top_p": "0.5"}.items():
        expect(page.locator(f"#param-{name}").locator("textarea, input")).to_have_value(value)
    expect(page.locator("#param-api_base").locator("textarea, input")).to_be_disabled()
    expect(page.locator("#param-api_key")).to_have_count(0)


def test_what_a_backend_cannot_do_is_disabled_and_says_why(page: Page, app: App) -> None:
    choose(page, "Tiny-1M-Instruct")
    open_tab(page, "Parameters")
    page.locator("#params-advanced").get_by_role("button", name="Advanced").click()
    penalty = page.locator("#param-presence_penalty")
    expect(penalty).to_contain_text("transformers has no such penalty")
    expect(penalty.locator("input[type=number]")).to_be_disabled()
    own_code = page.locator("#param-trust_remote_code")
    expect(own_code).to_contain_text("Only in the model's file.")
    expect(own_code.locator("input")).to_be_disabled()


def test_a_folder_with_pickled_weights_is_refused_in_the_form(page: Page, app: App) -> None:
    old = app.folder / "old"
    old.mkdir()
    (old / "config.json").write_text(json.dumps({"model_type": "llama"}), "utf-8")
    (old / "pytorch_model.bin").write_bytes(b"pickle")
    choose_backend(page, "huggingface")
    page.locator("#register-path textarea, #register-path input").fill(str(old))
    page.locator("#register-model").click()
    expect(page.locator("#register-notice")).to_contain_text("which can run code on your computer")
    assert not app.file_of("old").exists()
