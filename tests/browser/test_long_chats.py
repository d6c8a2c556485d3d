"""What makes long work pleasant: the meter, the edge of the window, the prompt as it is, files, keys, and speed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_kit import (
    App,
    answers,
    ask,
    box,
    figures,
    first_steps,
    live,
    load,
    notice,
    open_system_prompt,
    open_tab,
    prompt_tokens,
    running,
    send,
    users,
    watch_steps,
)
from playwright.sync_api import Locator, Page, expect
from tiny_gguf import COUNTING_ANSWER, write_tiny_gguf

OPEN_SECONDS = 1.0  # what the page promises for a chat of 1,000 messages
TOLERANCE = 1.0  # for the browser's own work on a busy machine


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    app = App(folder)
    slow = write_tiny_gguf(folder / "slow.gguf", COUNTING_ANSWER, endless=True, layers=8, n_ctx_train=16384)
    app.write_model("slow", slow, n_ctx=16384)
    wide = write_tiny_gguf(folder / "wide.gguf", COUNTING_ANSWER, endless=True, layers=1, n_ctx_train=32768)
    app.write_model("wide", wide, n_ctx=32768)
    app.write_model("tiny", write_tiny_gguf(folder / "tiny.gguf"), n_ctx=512)
    app.write_model("random", write_tiny_gguf(folder / "random.gguf", shuffled=True), temperature=1.5)
    with running(app):
        yield app


def meter(page: Page) -> Locator:
    return page.locator("#context-meter")


def metered(page: Page) -> int:
    """Return the tokens that the meter counts."""
    return int(meter(page).inner_text().split(" of ")[0].replace(",", ""))


def choose_at_the_edge(page: Page, choice: str) -> None:
    page.get_by_label("When the context window is full").click()
    page.get_by_role("option", name=choice).click()


def import_chat(page: Page, count: int, words: int = 3) -> None:
    messages = [
        {"role": ("user", "assistant")[n % 2], "content": f"Message {n}{' word' * words}"} for n in range(count)
    ]
    with page.expect_file_chooser() as chooser:
        page.locator("#history-list").get_by_role("button", name="Import").click()
    file = {"name": "chat.json", "mimeType": "application/json", "buffer": json.dumps(messages).encode()}
    chooser.value.set_files(file)


# The meter and the edge


def test_the_meter_counts_while_one_types_and_is_right(page: Page, app: App) -> None:
    load(page, app, "tiny")
    expect(meter(page)).to_contain_text("of 512 tokens")
    empty = metered(page)
    box(page).press_sequentially("count the words of the text please")
    page.wait_for_function("(n) => parseInt(document.querySelector('#context-meter').innerText) > n + 5", arg=empty)
    counted = metered(page)
    box(page).press("Enter")
    expect(figures(page)).to_have_count(1)
    assert prompt_tokens(page) == counted
    grown = "(n) => parseInt(document.querySelector('#context-meter').innerText) > n + 30"
    page.wait_for_function(grown, arg=counted)  # the answer counts too, once it has ended


def test_the_meter_counts_the_system_prompt(page: Page, app: App) -> None:
    load(page, app, "tiny")
    expect(meter(page)).to_contain_text("of 512 tokens")
    empty = metered(page)
    field = open_system_prompt(page)
    field.press_sequentially("You are a helpful test model.")
    field.blur()
    page.wait_for_function("(n) => parseInt(document.querySelector('#context-meter').innerText) > n + 5", arg=empty)


def test_at_the_edge_a_chat_is_refused_and_the_text_comes_back(page: Page, app: App) -> None:
    load(page, app, "tiny")
    import_chat(page, 40, words=15)
    expect(meter(page).locator(".lf-over")).to_be_visible()
    send(page, "One more")
    expect(notice(page)).to_contain_text("512")
    expect(box(page)).to_have_value("One more")


def test_at_the_edge_the_oldest_turns_go_where_that_is_chosen_and_a_line_shows_it(page: Page, app: App) -> None:
    load(page, app, "tiny")
    import_chat(page, 40, words=15)
    choose_at_the_edge(page, "When full: drop oldest")
    send(page, "One more")
    expect(figures(page).last).to_contain_text("finished")
    line = page.locator("#chat-turns .lf-edge")
    expect(line).to_contain_text("The context begins here: the model no longer sees what is above.")
    assert prompt_tokens(page) < 512
    page.reload()
    expect(line).to_be_visible()
    expect(page.get_by_label("When the context window is full")).to_have_value("When full: drop oldest")


def test_the_prompt_of_a_message_is_shown_as_the_model_read_it(page: Page, app: App) -> None:
    load(page, app, "tiny")
    open_system_prompt(page).fill("Be <b>short</b>.")
    ask(page, "Hello")
    tokens = prompt_tokens(page)  # unfolds the details
    figures(page).get_by_role("button", name="Show the prompt").click()
    view = page.locator("#prompt-view")
    expect(view).to_contain_text(f"The prompt as tiny reads it · {tokens} tokens.")
    expected = (
        "<|im_start|>system\nBe <b>short</b>.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert view.locator("pre").text_content() == expected
    page.keyboard.press("Escape")
    expect(view.locator("pre")).to_have_count(0)


def test_the_settings_of_an_answer_are_used_again(page: Page, app: App) -> None:
    load(page, app, "random")
    ask(page, "Hello")
    first = answers(page).get_attribute("aria-label") or ""
    figures(page).locator("summary").click()
    expect(figures(page)).to_contain_text("temperature 1.5")
    figures(page).get_by_role("button", name="Use these settings").click()
    expect(notice(page)).to_contain_text("These hold for this chat now: ")
    page.locator("#regenerate").click()
    expect(page.locator("#chat-turns .lf-versions")).to_contain_text("2 of 2")
    expect(answers(page)).to_have_attribute("aria-label", first)  # the same seed, the same words
    open_tab(page, "Parameters")
    expect(page.locator("#param-temperature")).to_contain_text("the answer of random")


# Files


def attach(page: Page, *files: tuple[str, str, bytes]) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#attach").click()
    chooser.value.set_files([{"name": name, "mimeType": kind, "buffer": data} for name, kind, data in files])


def test_a_text_file_goes_into_the_message_where_it_is_seen(page: Page, app: App) -> None:
    load(page, app, "tiny")
    box(page).fill("What does this do?")
    attach(page, ("hello.py", "text/x-python", b"print('```')\n"))
    expected = "What does this do?\n\nhello.py:\n````\nprint('```')\n````\n"
    expect(box(page)).to_have_value(expected)
    page.locator("#send").click()
    expect(users(page)).to_contain_text("print('```')")


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("program.bin", b"\x00\x01\x02", "program.bin is no text file."),
        ("long.txt", b"x" * 200_001, "long.txt is too large: at most 200 KB"),
    ],
    ids=["binary", "too large"],
)
def test_a_file_that_does_not_fit_is_a_sentence(page: Page, app: App, name: str, data: bytes, sentence: str) -> None:
    load(page, app, "tiny")
    box(page).fill("My text")
    attach(page, (name, "application/octet-stream", data))
    expect(notice(page)).to_contain_text(sentence)
    expect(box(page)).to_have_value("My text")


# Keys


def test_shift_enter_is_a_new_line_and_enter_sends(page: Page, app: App) -> None:
    load(page, app, "tiny")
    box(page).press_sequentially("One")
    box(page).press("Shift+Enter")
    box(page).press_sequentially("Two")
    expect(box(page)).to_have_value("One\nTwo")
    box(page).press("Enter")
    expect(users(page)).to_contain_text("Two")
    expect(answers(page)).to_have_count(1)


def test_escape_stops_the_answer(page: Page, app: App) -> None:
    load(page, app, "slow")
    send(page, "Count")
    expect(live(page)).to_contain_text("seven")
    page.keyboard.press("Escape")
    expect(page.locator("#send")).to_be_visible()
    expect(figures(page)).to_contain_text("stopped")


def test_the_arrow_up_in_an_empty_box_edits_the_last_message(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "First")
    ask(page, "Second")
    box(page).press("ArrowUp")
    field = page.locator("#chat-turns .edit-textarea")
    expect(field).to_have_value("Second")
    field.fill("Third")
    page.locator("#chat-turns").get_by_label("Submit").click()
    expect(users(page)).to_have_text(["First", "Third"])


def test_the_arrow_up_in_a_text_only_moves(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "First")
    box(page).fill("A text")
    box(page).press("ArrowUp")
    expect(page.locator("#chat-turns .edit-textarea")).to_have_count(0)


def test_every_button_of_the_chat_is_reached_by_the_keyboard_and_seen(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "Hello")
    seen: set[str] = set()
    box(page).focus()
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "() => { const e = document.activeElement, s = getComputedStyle(e);"
            " return [e.id || e.innerText || e.getAttribute('aria-label') || '', s.outlineStyle + s.boxShadow]; }"
        )
        seen.add(name.strip())
        if name in ("send", "attach", "regenerate", "new-chat"):
            assert outline != "nonenone", name
    assert {"send", "attach", "regenerate", "undo", "new-chat"} <= seen


# A thousand messages


def test_a_chat_of_a_thousand_messages_opens_in_a_second_and_chats_on(page: Page, app: App) -> None:
    load(page, app, "wide")
    ask_briefly(page, "A new chat")
    import_chat(page, 1000)
    expect(users(page)).to_have_count(10)
    page.locator("#history-list").get_by_role("button", name="A new chat", exact=True).click()
    expect(users(page)).to_have_count(1)
    begun = time.monotonic()
    page.locator("#history-list [data-act=open]").first.click()
    expect(answers(page).last).to_contain_text("Message 999")
    assert time.monotonic() - begun < OPEN_SECONDS + TOLERANCE
    expect(page.locator("#older-turns")).to_have_text("Show older messages (980)")
    watch_steps(page)
    send(page, "And on")
    first_steps(page, 5)
    page.keyboard.press("Escape")
    expect(page.locator("#send")).to_be_visible()


def ask_briefly(page: Page, text: str) -> None:
    send(page, text)
    expect(live(page)).to_contain_text("one")
    page.keyboard.press("Escape")
    expect(page.locator("#send")).to_be_visible()
