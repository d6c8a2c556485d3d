"""Chats that last, on the real page: the list, search, versions, branches, restarts and kills."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_kit import (
    App,
    Watch,
    answers,
    ask,
    box,
    edit_message,
    figures,
    live,
    load,
    notice,
    open_system_prompt,
    running,
    send,
    status,
    stop,
    users,
    visit,
    watch_steps,
)
from playwright.sync_api import BrowserContext, Locator, Page, expect
from tiny_gguf import COUNTING_ANSWER, write_tiny_gguf

SHAREGPT = [
    {"conversations": [{"from": "human", "value": f"Question {n}"}, {"from": "gpt", "value": f"Answer {n}"}]}
    for n in (1, 2)
]


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    app = App(folder)
    slow = write_tiny_gguf(folder / "slow.gguf", COUNTING_ANSWER, endless=True, layers=8, n_ctx_train=16384)
    app.write_model("slow", slow, n_ctx=16384)
    app.write_model("tiny", write_tiny_gguf(folder / "tiny.gguf"))
    app.write_model("random", write_tiny_gguf(folder / "random.gguf", shuffled=True))
    with running(app):
        yield app


def chats(page: Page) -> Locator:
    """The titles in the list."""
    return page.locator("#history-list [data-act=open]")


def open_chat(page: Page, title: str) -> None:
    page.locator("#history-list").get_by_role("button", name=title, exact=True).click()
    expect(page.locator("#history-list [aria-current=page]")).to_contain_text(title)


def new_chat(page: Page) -> None:
    page.locator("#new-chat").click()
    expect(users(page)).to_have_count(0)


def act(page: Page, name: str) -> None:
    """Press one of the buttons at the chat that is shown."""
    page.locator("#history-list").get_by_role("button", name=name, exact=True).first.click()


def versions(page: Page) -> Locator:
    return page.locator("#chat-turns .lf-versions")


# The list


def test_a_chat_is_listed_by_its_first_words_and_opened_again(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "What is a llama?")
    new_chat(page)
    ask(page, "And an alpaca?")
    expect(chats(page).first).to_have_text("And an alpaca?")
    open_chat(page, "What is a llama?")
    expect(users(page)).to_have_text("What is a llama?")
    expect(answers(page)).to_have_count(1)


def test_every_word_of_every_chat_is_found(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "Explain the Brunnengräber theorem")
    new_chat(page)
    ask(page, "Another matter")
    field = page.locator("#history-search input, #history-search textarea")
    everything = chats(page).count()
    field.fill("another MATTER")  # as if it were pasted
    expect(chats(page)).to_have_text(["Another matter"])
    field.fill("")
    expect(chats(page)).to_have_count(everything)
    field.press_sequentially("brunnengr")
    expect(chats(page)).to_have_text(["Explain the Brunnengräber theorem"])
    expect(page.locator("#history-list mark").first).to_have_text("Brunnengr")
    chats(page).first.click()
    expect(users(page)).to_have_text("Explain the Brunnengräber theorem")


def test_a_chat_is_renamed_and_pinned(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "An old chat")
    new_chat(page)
    ask(page, "A newer chat")
    open_chat(page, "An old chat")
    act(page, "Rename")
    field = page.locator("#chat-title input, #chat-title textarea")
    expect(field).to_have_value("An old chat")
    field.fill("My <b>best</b> chat")
    field.press("Enter")
    expect(field).to_be_hidden()
    act(page, "Pin")
    expect(chats(page).first).to_have_text("My <b>best</b> chat")
    expect(page.get_by_role("img", name="pinned")).to_be_visible()
    act(page, "Unpin")
    expect(page.get_by_role("img", name="pinned")).to_have_count(0)


def test_a_deleted_chat_comes_back_by_undo(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "Please keep me")
    act(page, "Delete")
    expect(users(page)).to_have_count(0)
    expect(page.locator("#history-notice")).to_contain_text("Deleted “Please keep me”.")
    expect(chats(page).filter(has_text="Please keep me")).to_have_count(0)
    page.locator("#history-notice").get_by_role("button", name="Undo").click()
    expect(users(page)).to_have_text("Please keep me")
    expect(chats(page).filter(has_text="Please keep me")).to_have_count(1)


def test_a_temporary_chat_is_kept_nowhere(page: Page, app: App) -> None:
    load(page, app, "tiny")
    page.locator("#temporary-chat").click()
    expect(page.locator("#history-list")).to_contain_text("temporary: it is kept nowhere")
    ask(page, "A secret of mine")
    expect(chats(page).filter(has_text="A secret of mine")).to_have_count(0)
    files = (app.folder / "data").glob("chats.sqlite3*")
    assert [file for file in files if b"A secret of mine" in file.read_bytes()] == []


def test_chats_leave_as_files_and_come_in_again(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "To be exported")
    with page.expect_download() as download:
        act(page, "Markdown")
    assert download.value.suggested_filename.startswith("To-be-exported-")
    text = download.value.path().read_text("utf-8")
    assert "**You**\n\nTo be exported\n\n**tiny**\n\nHello!" in text
    with page.expect_download() as download:
        act(page, "JSON")
    saved = download.value.path()
    act(page, "Delete")
    expect(users(page)).to_have_count(0)
    import_file(page, saved.read_text("utf-8"))
    expect(users(page)).to_have_text("To be exported")
    every = page.locator("#history-list .lf-files")
    with page.expect_download() as download:
        every.get_by_role("button", name="JSON").click()
    assert len(json.loads(download.value.path().read_text("utf-8"))["chats"]) == chats(page).count()
    with page.expect_download() as download:
        every.get_by_role("button", name="Markdown").click()
    assert download.value.path().read_text("utf-8").count("\n---\n\n# ") == chats(page).count() - 1


def import_file(page: Page, text: str) -> None:
    with page.expect_file_chooser() as chooser:
        act(page, "Import")
    chooser.value.set_files({"name": "chats.json", "mimeType": "application/json", "buffer": text.encode()})


def test_chats_of_others_are_read_in(page: Page, app: App) -> None:
    load(page, app, "tiny")
    import_file(page, json.dumps(SHAREGPT))
    expect(page.locator("#history-notice")).to_contain_text("2 chats were read in.")
    expect(users(page)).to_have_text("Question 1")
    expect(answers(page)).to_have_text("Answer 1")
    ask(page, "And more?")
    expect(users(page)).to_have_count(2)
    open_chat(page, "Question 2")
    expect(answers(page)).to_have_text("Answer 2")


def test_a_file_without_chats_is_a_sentence(page: Page, app: App) -> None:
    import_file(page, "These are my notes.")
    expect(notice(page)).to_contain_text("This is no JSON file.")


# In a chat


def test_versions_of_an_answer_are_switched(page: Page, app: App) -> None:
    load(page, app, "random")
    ask(page, "Hello")
    first = answers(page).get_attribute("aria-label") or ""
    page.locator("#regenerate").click()
    expect(versions(page)).to_contain_text("2 of 2")
    second = answers(page).get_attribute("aria-label") or ""
    assert first != second
    page.get_by_label("Previous version").click()
    expect(answers(page)).to_have_attribute("aria-label", first)
    expect(versions(page)).to_contain_text("1 of 2")
    expect(page.get_by_label("Previous version")).to_be_disabled()
    page.get_by_label("Next version").click()
    expect(answers(page)).to_have_attribute("aria-label", second)


def test_an_edited_message_keeps_its_earlier_version_with_all_that_followed(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "First")
    ask(page, "Second")
    page.locator("#chat-turns").get_by_label("Edit").first.click()
    page.locator("#chat-turns .edit-textarea").fill("Third")
    page.locator("#chat-turns").get_by_label("Submit").click()
    expect(users(page)).to_have_text(["Third"])
    page.get_by_label("Previous version").click()
    expect(users(page)).to_have_text(["First", "Second"])


def test_an_edited_answer_keeps_its_earlier_version(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "Hello")
    edit_message(page, "bot-row", "I am **edited**.")
    expect(answers(page)).to_have_text("I am edited.")
    page.get_by_label("Previous version").click()
    expect(answers(page)).to_contain_text("I know one answer.")


def test_a_branch_begins_with_what_was_said_and_leaves_the_chat_alone(page: Page, app: App) -> None:
    load(page, app, "tiny")
    ask(page, "The trunk")
    ask(page, "A bough")
    figures(page).first.locator("summary").click()
    figures(page).first.get_by_role("button", name="Branch from here").click()
    expect(users(page)).to_have_text(["The trunk"])
    expect(chats(page).first).to_have_text("The trunk (branch)")
    ask(page, "A twig")
    open_chat(page, "The trunk")
    expect(users(page)).to_have_text(["The trunk", "A bough"])


def test_a_stopped_answer_is_continued_where_it_was_cut(page: Page, app: App) -> None:
    load(page, app, "slow")
    send(page, "Count")
    expect(live(page)).to_contain_text("seven")
    stop(page)
    before = answers(page).inner_text().strip()
    watch_steps(page)
    page.locator("#chat-turns").get_by_role("button", name="Continue").click()
    expect(page.locator("#stop")).to_be_visible()
    page.wait_for_function("(length) => (window.steps.at(-1) ?? '').length > length + 30", arg=len(before))
    stop(page)
    after = answers(page).inner_text().strip()
    assert after.startswith(before) and len(after) > len(before) + 30
    words = after.split()
    names = COUNTING_ANSWER.split()
    assert words == [names[place % len(names)] for place in range(len(words))]  # not one is missing or doubled
    expect(answers(page)).to_have_count(1)


def test_each_chat_has_a_system_prompt_of_its_own(page: Page, app: App) -> None:
    load(page, app, "tiny")
    open_system_prompt(page).fill("Be a pirate.")
    ask(page, "With a pirate")
    new_chat(page)
    page.locator("#system-prompt textarea").fill("Be a poet.")
    ask(page, "With a poet")
    open_chat(page, "With a pirate")
    expect(page.locator("#system-prompt textarea")).to_have_value("Be a pirate.")
    open_chat(page, "With a poet")
    expect(page.locator("#system-prompt textarea")).to_have_value("Be a poet.")


def test_a_window_that_is_behind_wipes_no_system_prompt(page: Page, app: App, context: BrowserContext) -> None:
    load(page, app, "tiny")
    ask(page, "In two windows")
    behind = visit(context, app)
    open_chat(behind, "In two windows")
    open_system_prompt(page).fill("Be kind.")
    ask(page, "With a prompt")
    send(behind, "Without one")
    expect(users(behind)).to_have_text(["In two windows", "With a prompt", "Without one"])
    new_chat(page)
    open_chat(page, "In two windows")
    expect(page.locator("#system-prompt textarea")).to_have_value("Be kind.")


def test_an_edit_in_a_window_that_is_behind_lands_on_no_other_message(
    page: Page, app: App, context: BrowserContext
) -> None:
    load(page, app, "tiny")
    messages = [{"role": ("user", "assistant")[n % 2], "content": f"Note {n}"} for n in range(50)]
    import_file(page, json.dumps(messages))
    expect(users(page).first).to_have_text("Note 30")  # the last twenty are shown
    behind = visit(context, app)
    open_chat(behind, "Note 0")
    expect(users(behind).first).to_have_text("Note 30")
    send(page, "One more")
    expect(users(page).last).to_have_text("One more")
    expect(page.locator("#send")).to_be_visible()
    behind.locator("#chat-turns").get_by_label("Edit").first.click()
    behind.locator("#chat-turns .edit-textarea").fill("Edited")
    behind.locator("#chat-turns").get_by_label("Submit").click()
    expect(notice(behind)).to_contain_text("This chat was changed in another window.")
    expect(box(behind)).to_have_value("Edited")
    expect(users(behind).last).to_have_text("One more")


def test_older_messages_are_shown_on_demand(page: Page, app: App) -> None:
    messages = [{"role": ("user", "assistant")[n % 2], "content": f"Message {n}"} for n in range(100)]
    import_file(page, json.dumps(messages))
    expect(users(page)).to_have_count(10)
    older = page.locator("#older-turns")
    expect(older).to_have_text("Show older messages (80)")
    older.click()
    expect(users(page)).to_have_count(30)
    older.click()
    expect(users(page).first).to_have_text("Message 0")
    expect(older).to_be_hidden()


# What lasts


def test_a_restart_with_an_open_tab_loses_nothing(page: Page, app: App, watch: Watch) -> None:
    load(page, app, "tiny")
    ask(page, "Before the restart")
    (app.config / "settings.yaml").write_text("default_model: tiny\n", "utf-8")
    box(page).fill("After the restart")
    with page.expect_navigation(timeout=60_000):  # Gradio's page loads itself anew where its server is another
        restart_in_place(app)
    expect(status(page)).to_contain_text("ready", timeout=60_000)
    app.loaded = "tiny"
    expect(box(page)).to_have_value("After the restart")
    page.locator("#send").click()
    expect(users(page)).to_have_text(["Before the restart", "After the restart"])
    expect(answers(page)).to_have_count(2)
    forget_absence(page, watch)


def test_a_kill_in_the_middle_loses_no_word_that_was_shown(page: Page, app: App, watch: Watch) -> None:
    load(page, app, "slow")
    watch_steps(page)
    send(page, "Count")
    expect(live(page)).to_contain_text("ten one two")
    app.program.process.send_signal(signal.SIGKILL)
    app.program.process.wait()
    shown = str(page.evaluate("() => window.steps.at(-1)")).strip()
    box(page).fill("typed while it was away")
    restart_in_place(app, killed=True)
    page.goto(app.url)
    expect(box(page)).to_have_value("typed while it was away")
    expect(answers(page)).to_contain_text(shown)
    expect(figures(page)).to_contain_text("interrupted")
    load(page, app, "slow")
    page.locator("#chat-turns").get_by_role("button", name="Continue").click()
    longer = "(length) => document.querySelector('#live-turn .md')?.textContent.trim().length > length + 10"
    page.wait_for_function(longer, arg=len(shown))
    stop(page)
    text = answers(page).inner_text().strip()
    assert text.startswith(shown) and len(text) > len(shown)
    forget_absence(page, watch)


def restart_in_place(app: App, *, killed: bool = False) -> None:
    """Start the app anew at the same address, as a service does, with the tabs of its visitors open."""
    port = app.url.rsplit(":", 1)[1]
    if not killed:
        assert app.program.stop() == 0
    app.loaded = None
    app.start("--port", port)
    assert app.url.endswith(port)


def forget_absence(page: Page, watch: Watch) -> None:
    """Forget what the browser said of a server that was away."""
    page.close()
    watch.seen.clear()
