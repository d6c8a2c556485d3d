"""A newcomer without a model, a key or a network: one click, and a real model answers rightly."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_kit import App, answers, box, first_steps, live, open_tab, running, status, users, watch_steps
from playwright.sync_api import Page, expect

from guide.export import SHIPPED
from guide.texts import read_texts

ROOT = Path(__file__).parent.parent.parent
TOPICS = read_texts().topics
OFFERED = {
    "What is LlamaForge?": "what_is",
    "How do I add a model of my own?": "add_model",
    "Which backend should I choose?": "choose_backend",
    "Where does what I type go?": "privacy",
    "What does temperature do?": "temperature",
}
SMALL = {"viewport": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    """The app as a fresh clone has it: the shipped config folder, and the guide's file beside it."""
    shutil.copytree(ROOT / "configs", folder / "config")
    (folder / "guide").mkdir()
    shutil.copy(SHIPPED, folder / "guide")
    with running(App(folder)) as app:
        yield app


def offered(page: Page, question: str) -> None:
    """Press one of the questions that the empty chat offers."""
    expect(status(page)).to_contain_text("ready")
    page.locator("#welcome").get_by_role("button", name=question, exact=True).click()


def said(topic: str) -> str:
    """Return an answer as the page shows it, where code has no backticks."""
    return TOPICS[topic].answer.replace("`", "")


def test_the_empty_chat_tells_who_answers_and_what_it_is(page: Page) -> None:
    expect(status(page)).to_contain_text("guide")
    expect(page.locator("#welcome h3")).to_have_text("Chat with guide")
    expect(page.locator("#welcome")).to_contain_text("A tiny demo that knows only LlamaForge.")
    expect(page.locator("#welcome [data-act=example]")).to_have_text(list(OFFERED))
    open_tab(page, "Models")
    expect(page.locator("#models-list")).to_contain_text("guide — A tiny demo that knows only LlamaForge.")


@pytest.mark.parametrize("question", OFFERED)
def test_one_click_on_a_question_streams_the_right_answer(page: Page, question: str) -> None:
    watch_steps(page)
    offered(page, question)
    expect(answers(page)).to_have_text([said(OFFERED[question])])
    expect(users(page)).to_have_text([question])
    first_steps(page, 1)  # it was drawn as it came, if only at once: the whole takes a twentieth of a second
    expect(page.locator("#welcome h3")).to_have_count(0)
    expect(box(page)).to_have_value("")


def test_what_it_does_not_know_it_says(page: Page) -> None:
    expect(status(page)).to_contain_text("ready")
    box(page).fill("What is the capital of Australia?")
    box(page).press("Enter")
    expect(answers(page)).to_contain_text(["Only LlamaForge is what I know"])


@pytest.mark.parametrize(
    ("way", "backend"),
    [("A GGUF file", "llama.cpp"), ("A Hugging Face model", "huggingface"), ("A service or server", "openai")],
)
def test_from_the_empty_chat_one_click_leads_to_a_model_of_ones_own(page: Page, way: str, backend: str) -> None:
    page.locator("#welcome").get_by_role("button", name=way, exact=True).click()
    expect(page.get_by_role("tab", name="Models", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page.get_by_role("combobox", name="Backend", exact=True)).to_have_value(backend)
    expect(page.locator("#register-path")).to_be_in_viewport()


@pytest.mark.parametrize("context", [SMALL], indirect=True)
def test_on_a_phone_every_question_is_within_reach(page: Page) -> None:
    last = list(OFFERED)[-1]
    offered(page, last)
    expect(answers(page)).to_have_text([said(OFFERED[last])])
    assert page.evaluate("document.documentElement.scrollWidth") <= SMALL["viewport"]["width"]


def test_a_new_chat_offers_the_questions_again(page: Page) -> None:
    question = next(iter(OFFERED))
    offered(page, question)
    expect(answers(page)).to_have_count(1)
    page.locator("#new-chat").click()
    offered(page, question)
    expect(answers(page)).to_have_text([said(OFFERED[question])])
    expect(live(page)).to_have_text("")


def test_whoever_removes_the_guide_is_told_what_still_names_it(page: Page) -> None:
    open_tab(page, "Models")
    page.locator("#remove-model").click()
    page.locator("#confirm-remove-yes").click()
    expect(page.locator("#models-notice")).to_contain_text("Removed 'guide'. settings.yaml still names it")
