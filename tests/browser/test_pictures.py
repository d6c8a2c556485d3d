"""Pictures in a chat: attached, seen by a model that can, refused in a sentence for one that cannot, and kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from page_kit import App, Watch, answers, box, figures, load, notice, prompt_tokens, running, send, users
from picture_kit import picture
from playwright.sync_api import Locator, Page, expect
from tiny_gguf import write_tiny_gguf
from tiny_mmproj import IMAGE_TOKENS, write_tiny_mmproj


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    """A model that cannot see, and one that can."""
    app = App(folder)
    app.write_model("blind", write_tiny_gguf(folder / "blind.gguf"))
    (folder / "eyes").mkdir()
    write_tiny_mmproj(folder / "eyes" / "mmproj-eyes-f16.gguf")
    eyes = write_tiny_gguf(folder / "eyes" / "eyes-Q8_0.gguf", "never said", width=128, random_weights=7)
    app.write_model("eyes", eyes, temperature=0.0, max_tokens=12)
    with running(app):
        yield app


def attach(page: Page, data: bytes, name: str = "a picture.png", kind: str = "image/png") -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#attach").click()
    chooser.value.set_files({"name": name, "mimeType": kind, "buffer": data})


def attached(page: Page) -> Locator:
    return page.locator("#attached img")


def pictures(page: Page) -> Locator:
    """The pictures in the chat."""
    return page.locator("#chat-turns .lf-pictures img")


def test_a_model_that_sees_is_given_the_picture_and_it_stays_in_the_chat(page: Page, app: App, watch: Watch) -> None:
    load(page, app, "eyes")
    send(page, "What is this?")
    expect(figures(page)).to_have_count(1)
    without = prompt_tokens(page)
    page.locator("#new-chat").click()
    expect(users(page)).to_have_count(0)
    attach(page, picture("red").data)
    expect(attached(page)).to_be_visible()
    send(page, "What is this?")
    expect(figures(page)).to_have_count(1)
    assert without + IMAGE_TOKENS <= prompt_tokens(page) <= without + IMAGE_TOKENS + 2  # and a line end around it
    expect(attached(page)).to_have_count(0)
    expect(pictures(page)).to_have_count(1)
    page.reload()
    expect(pictures(page)).to_be_visible()
    expect(answers(page)).to_have_count(1)
    watch.forget_leaving()


def test_a_model_that_cannot_see_says_so_and_nothing_is_lost(page: Page, app: App) -> None:
    load(page, app, "blind")
    attach(page, picture("red").data)
    expect(attached(page)).to_be_visible()
    send(page, "What is this?")
    expect(notice(page)).to_contain_text("blind cannot see pictures.")
    expect(box(page)).to_have_value("What is this?")
    expect(attached(page)).to_be_visible()
    page.locator("#attached").get_by_role("button", name="Remove").click()
    expect(attached(page)).to_have_count(0)
    page.locator("#send").click()
    expect(answers(page)).to_have_count(1)


def test_an_earlier_picture_does_not_keep_another_model_from_answering(page: Page, app: App) -> None:
    load(page, app, "eyes")
    attach(page, picture("blue").data)
    expect(attached(page)).to_be_visible()
    send(page, "What is this?")
    expect(figures(page)).to_have_count(1)
    load(page, app, "blind")
    send(page, "And what do you say?")
    expect(figures(page)).to_have_count(2)
    expect(answers(page).last).to_contain_text("tiny")


def test_what_is_no_picture_is_a_sentence(page: Page, app: App) -> None:
    attach(page, b"no picture", "broken.png")
    expect(notice(page)).to_contain_text("broken.png is no picture that can be read.")
    expect(attached(page)).to_have_count(0)
