"""What a person does in a chat, on the real page with real models: every promise of the Chat tab."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_kit import (
    App,
    Watch,
    answers,
    ask,
    box,
    choose,
    edit_message,
    expect_labels,
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
    status,
    stop,
    thoughts,
    users,
    visit,
    watch_steps,
)
from playwright.sync_api import BrowserContext, Page, expect
from tiny_gguf import COUNTING_ANSWER, DEFAULT_ANSWER, THINKING_ANSWER, write_tiny_gguf

from llamaforge import format_bytes

STOP_SECONDS = 1.0  # what the page promises
CHANGE_SECONDS = 3.0
TOLERANCE = 2.0  # for the browser's own work on a busy machine
LONG_PROMPT = "word " * 6000  # some seconds of reading for the slow model
SYSTEM_PROMPT = "You are a helpful test model. Please answer the question."
EMPTY_CHAT = "Write a message below. What you write does not leave this computer."


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    app = App(folder)
    slow = write_tiny_gguf(folder / "slow.gguf", COUNTING_ANSWER, endless=True, layers=8, n_ctx_train=16384)
    app.write_model("slow", slow, n_ctx=16384)
    app.write_model("tiny", write_tiny_gguf(folder / "tiny.gguf"))
    app.write_model("random", write_tiny_gguf(folder / "random.gguf", shuffled=True))
    app.write_model("think", write_tiny_gguf(folder / "think.gguf", THINKING_ANSWER))
    with running(app):
        yield app


def test_an_answer_is_seen_growing(page: Page, app: App) -> None:
    load(page, app, "slow")
    watch_steps(page)
    send(page, "Count")
    seen = first_steps(page, 5)
    expect(page.locator("#stop")).to_be_visible()
    assert all(after.startswith(before) for before, after in zip(seen, seen[1:], strict=False))


def test_an_answer_is_seen_growing_where_its_stream_does_not_come(page: Page, app: App) -> None:
    page.route("**/live", lambda route: route.fulfill(body=""))
    load(page, app, "slow")
    watch_steps(page)
    send(page, "Count")
    seen = first_steps(page, 5)
    assert all(after.startswith(before) for before, after in zip(seen, seen[1:], strict=False))
    stop(page)
    expect(answers(page)).to_contain_text(seen[-1])
    expect(live(page)).to_have_text("")


def test_the_first_word_waits_for_no_event(page: Page, app: App) -> None:
    load(page, app, "slow")
    ask_briefly(page, "Count")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    send(page, "Count")
    expect(live(page)).to_contain_text("one two")
    stream, event = (next(n for n, url in enumerate(asked) if name in url) for name in ("/live", "/queue/join"))
    assert stream < event


def ask_briefly(page: Page, text: str) -> None:
    send(page, text)
    expect(live(page)).to_contain_text("one two")
    stop(page)


def test_stop_frees_page_and_engine_within_a_second(page: Page, app: App) -> None:
    load(page, app, "slow")
    send(page, "Count")
    expect(live(page)).to_contain_text("seven")
    assert stop(page) < STOP_SECONDS + TOLERANCE
    expect(figures(page).last).to_contain_text("stopped")
    asked = time.monotonic()
    send(page, "Again")
    expect(live(page)).to_contain_text("one two")
    assert time.monotonic() - asked < STOP_SECONDS + TOLERANCE
    expect(answers(page)).to_contain_text(["one two three"])


def test_stop_is_heard_while_a_long_prompt_is_read(page: Page, app: App) -> None:
    load(page, app, "slow")
    send(page, LONG_PROMPT)
    expect(page.locator("#live-status")).to_contain_text(re.compile(r"Reading the prompt · \d+%"))
    assert stop(page) < STOP_SECONDS + TOLERANCE
    expect(figures(page).last).to_contain_text("stopped")
    page.locator("#new-chat").click()
    expect(users(page)).to_have_count(0)
    send(page, "Short")
    expect(live(page)).to_contain_text("one two", timeout=5000)


def test_closing_the_tab_stops_its_answer(page: Page, app: App, context: BrowserContext) -> None:
    load(page, app, "slow")
    send(page, "Count")
    expect(live(page)).to_contain_text("seven")
    page.close()
    other = visit(context, app)
    send(other, "Count")
    expect(live(other)).to_contain_text("one two", timeout=5000)


def test_a_message_sent_while_an_answer_is_written_stays_in_the_box(page: Page, app: App) -> None:
    load(page, app, "slow")
    send(page, "Count")
    expect(live(page)).to_contain_text("seven")
    send(page, "And another thing")
    expect(notice(page)).to_contain_text("An answer is still being written.")
    expect(box(page)).to_have_value("And another thing")
    stop(page)
    box(page).press("Enter")
    expect(users(page)).to_have_count(2)
    stop(page)


def test_the_page_stays_at_the_end_of_the_chat(page: Page, app: App) -> None:
    load(page, app, "tiny")
    for number in range(4):
        ask(page, f"Question {number}")
        page.wait_for_function(
            "() => { const {scrollHeight, scrollTop, clientHeight} = document.scrollingElement;"
            " return scrollHeight - scrollTop - clientHeight < 80; }"
        )


def test_a_message_right_after_stop_takes_nothing_off_the_page(page: Page, app: App) -> None:
    load(page, app, "slow")
    for text in ("First", "Second", "Third"):
        send(page, text)
        expect(users(page).last).to_have_text(text)  # what is live may still be the answer before
        expect(live(page)).to_contain_text("one two")
        page.locator("#stop").click()
    box(page).fill("Fourth")
    expect(page.locator("#send")).to_be_visible()
    expect(users(page)).to_have_text(["First", "Second", "Third"])
    expect(answers(page)).to_have_count(3)
    expect(live(page)).to_have_text("")


def test_enter_pressed_twice_gives_one_answer(page: Page, app: App) -> None:
    load(page, app, "slow")
    box(page).fill("Count")
    box(page).press("Enter")
    box(page).press("Enter")
    expect(live(page)).to_contain_text("ten one two")
    stop(page)
    expect(users(page)).to_have_count(1)
    expect(answers(page)).to_have_count(1)
    expect_labels(page)


def test_new_chat_stops_a_running_answer(page: Page, app: App) -> None:
    load(page, app, "slow")
    send(page, "Count")
    expect(live(page)).to_contain_text("seven")
    page.locator("#new-chat").click()
    expect(page.locator("#send")).to_be_visible()
    expect(page.get_by_text(EMPTY_CHAT)).to_be_visible()
    expect(live(page)).to_have_text("")
    send(page, "Count")
    expect(live(page)).to_contain_text("one two", timeout=5000)


def test_a_second_chat_waits_its_turn_and_is_told_so(page: Page, app: App, context: BrowserContext) -> None:
    load(page, app, "slow")
    send(page, "Count")
    expect(live(page)).to_contain_text("seven")
    other = visit(context, app)
    expect(users(other)).to_have_count(0)  # each tab has a conversation of its own
    send(other, "Count")
    expect(other.locator("#live-status")).to_contain_text("Waiting for 1 answer before this one")
    stop(page)
    expect(live(other)).to_contain_text("seven")


def test_a_reload_in_the_middle_keeps_what_was_written(page: Page, app: App, watch: Watch) -> None:
    load(page, app, "slow")
    send(page, "Count")
    expect(live(page)).to_contain_text("ten one two")
    written = live(page).inner_text().strip()
    page.reload()
    expect(answers(page)).to_contain_text(written)
    expect(users(page)).to_have_text("Count")
    expect(page.locator("#send")).to_be_visible()
    expect(figures(page)).to_contain_text("stopped as the connection to this page was lost")
    expect(page.get_by_role("button", name="Continue")).to_be_visible()
    watch.forget_leaving()


def test_a_committed_answer_is_rendered_with_its_figures_under_it(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "Hello")
    expect(answers(page).locator("strong")).to_have_text("tiny")
    expect(answers(page).locator("pre code.language-python")).to_have_text('print("Hello")\n')
    expect(answers(page).locator("p code")).to_have_text("Stop")
    expect(answers(page)).to_contain_text("a llama 🦙, and this is Japanese: 日本語.")
    line = r"^\s*\d+ tokens · [\d.]+ s to first · ([\d,]+ tokens/s · )?finished\s*$"
    expect(figures(page).locator("summary")).to_have_text(re.compile(line))


def test_figures_fit_what_was_measured(page: Page, app: App) -> None:
    load(page, app, "slow")
    begun = time.monotonic()
    send(page, "Count")
    expect(live(page)).to_contain_text("ten one two")
    stop(page)
    took = time.monotonic() - begun
    tokens, first, speed = re.findall(r"[\d.,]+(?= tokens ·| s to first| tokens/s)", figures(page).inner_text())
    count, rate = (int(figure.replace(",", "")) for figure in (tokens, speed))
    assert float(first) < took and count > 10
    assert count / rate < took  # it cannot have written for longer than it was waited for


def test_copy_takes_exactly_the_text_of_the_answer(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "Hello")
    page.locator("#chat-turns .bot-row + .message-buttons").first.get_by_label("Copy message").click()
    page.wait_for_function("async (text) => (await navigator.clipboard.readText()) === text", arg=DEFAULT_ANSWER)


def test_editing_an_earlier_message_answers_it_anew(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "First")
    ask(page, "Second")
    page.locator("#chat-turns").get_by_label("Edit").first.click()
    page.locator("#chat-turns .edit-textarea").fill("Third")
    page.locator("#chat-turns").get_by_label("Submit").click()
    expect(users(page)).to_have_text(["Third"])
    expect(answers(page)).to_have_count(1)


def test_editing_an_answer_changes_its_text_only(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "Hello")
    edit_message(page, "bot-row", "I am **edited**.")
    expect(answers(page)).to_have_text("I am edited.")
    ask(page, "And now?")
    expect(answers(page)).to_contain_text(["I am edited.", "I know one answer."])
    expect(users(page)).to_have_text(["Hello", "And now?"])
    expect_labels(page)


def test_a_reload_finds_the_chat_as_it_was(page: Page, app: App, watch: Watch) -> None:
    load(page, app, "tiny")
    open_system_prompt(page).press_sequentially("Short.")
    ask(page, "Hello")
    page.reload()
    expect(answers(page)).to_contain_text("I know one answer.")
    expect(users(page)).to_have_text("Hello")
    expect(open_system_prompt(page)).to_have_value("Short.")
    watch.forget_leaving()


def test_undo_brings_the_message_back_into_the_box(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "First")
    ask(page, "Second")
    page.locator("#undo").click()
    expect(box(page)).to_have_value("Second")
    expect(users(page)).to_have_text(["First"])
    expect(answers(page)).to_have_count(1)


def test_the_model_is_given_the_whole_chat_and_a_new_one_begins_empty(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "Hello")
    one = prompt_tokens(page)
    ask(page, "How are you?")
    assert prompt_tokens(page) > 2 * one
    page.locator("#new-chat").click()
    expect(page.get_by_text(EMPTY_CHAT)).to_be_visible()
    expect(users(page)).to_have_count(0)
    ask(page, "Hello")
    assert prompt_tokens(page) == one


@pytest.mark.parametrize("typed", [True, False], ids=["typed", "pasted"])
def test_the_system_prompt_reaches_the_model(page: Page, app: App, typed: bool) -> None:
    load(page, app, "tiny")
    ask(page, "Hello")
    without = prompt_tokens(page)
    page.locator("#new-chat").click()
    expect(users(page)).to_have_count(0)
    field = open_system_prompt(page)
    field.press_sequentially(SYSTEM_PROMPT) if typed else field.fill(SYSTEM_PROMPT)
    field.blur()
    ask(page, "How are you?")
    assert prompt_tokens(page) > without + 10


def test_a_deleted_system_prompt_is_gone(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "Hello")
    without = prompt_tokens(page)
    page.locator("#new-chat").click()
    expect(users(page)).to_have_count(0)
    field = open_system_prompt(page)
    field.press_sequentially(SYSTEM_PROMPT)
    field.press("Control+A")
    field.press("Delete")
    field.blur()
    ask(page, "Hello")
    assert prompt_tokens(page) == without


def test_another_tab_sees_within_three_seconds_what_is_loaded(page: Page, app: App, context: BrowserContext) -> None:
    load(page, app, "tiny")
    other = visit(context, app)
    expect(status(other)).to_contain_text("ready")
    page.locator("#unload-model").click()
    app.loaded = None
    expect(status(page)).to_contain_text("nothing loaded")
    expect(status(other)).to_contain_text("nothing loaded", timeout=1000 * (CHANGE_SECONDS + TOLERANCE))
    load(page, app, "tiny")
    expect(status(other)).to_contain_text("ready", timeout=1000 * (CHANGE_SECONDS + TOLERANCE))


def test_the_bar_does_not_call_another_model_ready(page: Page, app: App) -> None:
    load(page, app, "tiny")
    choose(page, "think")
    expect(status(page)).to_contain_text("tiny", timeout=5000)


def test_unload_gives_the_model_up_and_sending_keeps_the_text(page: Page, app: App) -> None:
    load(page, app, "tiny")
    page.locator("#unload-model").click()
    app.loaded = None
    expect(status(page)).to_contain_text("nothing loaded")
    expect(page.locator("#unload-model")).to_be_disabled()
    send(page, "Hello")
    expect(notice(page)).to_have_text("No model is loaded. Choose one and press Load.")
    expect(box(page)).to_have_value("Hello")


def test_thoughts_are_folded_above_the_answer(page: Page, app: App) -> None:
    load(page, app, "think")
    ask(page, "What is six times seven?")
    expect(answers(page)).to_have_text("The answer is 42.")
    expect(page.get_by_text("The user wants an answer.")).to_be_hidden()
    thoughts(page).first.get_by_text("Thoughts").click()
    expect(page.get_by_text("The user wants an answer.")).to_be_visible()


def test_load_swaps_the_model(page: Page, app: App) -> None:
    load(page, app, "think")
    choose(page, "slow")
    page.locator("#load-model").click()
    expect(status(page)).to_contain_text(f"ready · {format_bytes((app.folder / 'slow.gguf').stat().st_size)}")
    app.loaded = "slow"
    open_tab(page, "Models")
    expect(page.locator("#models-list label").filter(has_text="— ready")).to_have_text(re.compile(r"^\s*slow"))


def test_regenerate_shows_another_answer(page: Page, app: App) -> None:
    load(page, app, "random")
    ask(page, "Hello")
    first = answers(page).inner_text()
    page.locator("#regenerate").click()
    expect(answers(page)).not_to_have_text(first)
    expect(page.locator("#send")).to_be_visible()
    expect(answers(page)).to_have_count(1)
    expect(users(page)).to_have_count(1)


def test_editing_the_last_message_answers_it_anew(page: Page, app: App) -> None:
    load(page, app, "random")
    ask(page, "Hello")
    first = answers(page).inner_text()
    edit_message(page, "user-row", "Good evening")
    expect(users(page)).to_have_text("Good evening")
    expect(answers(page)).not_to_have_text(first)
    expect(page.locator("#send")).to_be_visible()
    expect(answers(page)).to_have_count(1)
