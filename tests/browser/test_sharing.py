"""The shared page as guests and the owner see it, each in a browser of their own, and as a Space in a frame."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_kit import (
    PATIENCE,
    ROOT,
    App,
    Watch,
    answers,
    ask,
    box,
    first_steps,
    launch_browser,
    live,
    load,
    notice,
    open_tab,
    register,
    running,
    send,
    set_parameter,
    status,
    stop,
    users,
    visit,
    watch_steps,
)
from playwright.sync_api import Browser, BrowserContext, FrameLocator, Page, Route, expect
from tiny_gguf import COUNTING_ANSWER, DEFAULT_ANSWER, write_tiny_gguf

PASSPHRASE = "a passphrase of tests"
OWNER = {"LLAMAFORGE_OWNER_PASSWORD": PASSPHRASE}
SPACE = {"SPACE_ID": "someone/llamaforge", "SPACE_HOST": "someone-llamaforge.hf.space", "SYSTEM": "spaces"}
SETTINGS = """\
default_model: tiny
guests:
  max_tokens: 16384
  messages_per_10_minutes: 1000
  all_messages_per_10_minutes: 1000
  system_prompt: You are a pirate.
"""
FIRST_WORDS = DEFAULT_ANSWER.split(".")[0].replace("**", "")
OWNERS = (
    "#tabs",
    "[role=tab]",
    "#owner-bar",
    "#model-select",
    "#load-model",
    "#system-prompt",
    "#models-list",
    "#save-parameters",
)
REFUSED = "console: Failed to load resource: the server responded with a status of 403 (Forbidden)"
ONLY_OWNER = "Only the owner can do this."
SCREENSHOTS = ROOT / "tests" / "screenshots"
LOOKS = [
    pytest.param({"viewport": {"width": width, "height": 844}, "color_scheme": scheme}, f"{size}-{scheme}")
    for size, width in {"desktop": 1280, "phone": 390}.items()
    for scheme in ("light", "dark")
]
HUB_PAGE = "https://huggingface.co/spaces/someone/llamaforge"
ANOTHER_PAGE = "https://another.example/"
# A page that Playwright makes up counts as one of the internet, which may not reach this computer.
FRAMING_FLAGS = ("--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests",)


@pytest.fixture(scope="module")
def app(folder: Path) -> Iterator[App]:
    """A page in the network, which has an owner."""
    app = with_models(folder)
    with running(app, "--host", "0.0.0.0", env=OWNER):
        yield app


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """A page for this computer alone, of which its owner wants a passphrase nevertheless."""
    with running(App(tmp_path_factory.mktemp("local")), env=OWNER) as app:
        yield app


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with running(with_models(tmp_path_factory.mktemp("space")), env={**OWNER, **SPACE}) as app:
        yield app


def with_models(folder: Path) -> App:
    """Return an app with a model that is loaded at the start, one that never ends, and a file that nobody knows."""
    app = App(folder)
    app.write_model("tiny", write_tiny_gguf(folder / "tiny.gguf"))
    endless = write_tiny_gguf(folder / "endless.gguf", COUNTING_ANSWER, endless=True, layers=8, n_ctx_train=16384)
    app.write_model("endless", endless, n_ctx=16384)
    write_tiny_gguf(folder / "newcomer.gguf", COUNTING_ANSWER)
    (app.config / "settings.yaml").write_text(SETTINGS, "utf-8")
    return app


@contextlib.contextmanager
def somebody(browser: Browser) -> Iterator[tuple[BrowserContext, Watch]]:
    """Another person with a browser; what no page may do fails the test at the end."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    watch = Watch(context)
    yield context, watch
    context.close()
    assert watch.seen == []


@pytest.fixture
def owner(browser: Browser, app: App) -> Iterator[Page]:
    with somebody(browser) as (context, watch):
        yield log_in(context, app)
        forget_late(watch)


def log_in(context: BrowserContext, app: App) -> Page:
    """Open the owner's page by its passphrase."""
    page = at_login(context, app)
    enter(page, PASSPHRASE)
    expect(box(page)).to_be_editable()
    expect(status(page).locator(".lf-status")).to_be_visible()
    return page


def at_login(context: BrowserContext, app: App) -> Page:
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(f"{app.url}/owner")
    return page


def enter(page: Page, passphrase: str) -> None:
    page.get_by_label("Passphrase").fill(passphrase)
    page.get_by_role("button", name="Log in").click()


def expect_login(page: Page) -> None:
    expect(page).to_have_url(re.compile("/owner$"))
    expect(page.get_by_label("Passphrase")).to_be_visible()
    expect(page.locator("#page")).to_have_count(0)


def forget_refusals(watch: Watch) -> None:
    """Expect that the browser was refused something, and nothing worse; its page may have been left."""
    watch.forget_leaving()
    assert set(watch.seen) == {REFUSED}
    watch.seen.clear()


def forget_late(watch: Watch) -> None:
    """Forget that what was on its way at a logout came too late: the gate refuses it, or the handler itself."""
    watch.forget_leaving()
    by_handler = REFUSED.replace("403 (Forbidden)", "500 (Internal Server Error)")
    watch.seen = [text for text in watch.seen if text not in (REFUSED, by_handler)]


def test_a_guest_sees_the_chat_and_nothing_of_the_owners(page: Page) -> None:
    expect(page.locator("#chat-log")).to_contain_text("Say something")
    expect(status(page)).to_have_text("tiny ready")
    for part in OWNERS:
        expect(page.locator(part)).to_have_count(0)
    assert page.get_by_role("button").all_inner_texts() == [
        "",  # shows and hides the chats
        "New chat",
        *("Send", "Attach", "Regenerate", "Undo", "New chat"),
    ]


def test_a_guest_chats_stops_downloads_and_begins_anew(page: Page, owner: Page, app: App) -> None:
    load(owner, app, "tiny")
    ask(page, "Hello")
    expect(answers(page)).to_contain_text(FIRST_WORDS)
    load(owner, app, "endless")
    watch_steps(page)
    send(page, "Count")
    first_steps(page, 3)
    stop(page)
    with page.expect_download() as download:
        page.locator("#history-list li").get_by_role("button", name="Markdown").click()
    text = download.value.path().read_text("utf-8")
    assert DEFAULT_ANSWER.split("\n")[0] in text and "one two three" in text and "pirate" not in text
    page.locator("#new-chat").click()
    expect(users(page)).to_have_count(0)


def test_a_wrong_passphrase_is_told_and_the_right_one_opens_the_owners_page(
    context: BrowserContext, watch: Watch, app: App
) -> None:
    page = at_login(context, app)
    enter(page, "not the passphrase")
    expect(page.get_by_role("alert")).to_have_text("That is not the passphrase.")
    forget_refusals(watch)
    enter(page, PASSPHRASE)
    expect(page).to_have_url(f"{app.url}/owner/")
    expect(page.get_by_role("tab")).to_have_text(["Chat", "Models", "Parameters"])


def test_the_owners_page_registers_loads_chats_and_sets_parameters(owner: Page, app: App) -> None:
    expect(owner.locator("#guests-line")).to_contain_text("Open: guests can chat at http://")
    register(owner, str(app.folder / "newcomer.gguf"))
    expect(owner.locator("#register-notice")).to_contain_text("Registered 'newcomer'.")
    load(owner, app, "newcomer")
    open_tab(owner, "Parameters")
    set_parameter(owner, "max_tokens", "3")
    open_tab(owner, "Chat")
    ask(owner, "Count")
    expect(answers(owner)).to_have_text("one two three")


def test_two_guests_do_not_see_each_others_chat(page: Page, browser: Browser, owner: Page, app: App) -> None:
    load(owner, app, "tiny")
    with somebody(browser) as (context, _):
        other = visit(context, app)
        ask(page, "The first guest's words")
        ask(other, "The second guest's words")
        page.reload()
        other.reload()
        expect(users(page)).to_have_text(["The first guest's words"])
        expect(users(other)).to_have_text(["The second guest's words"])
        for one, words in ((page, "The first guest's words"), (other, "The second guest's words")):
            expect(one.locator("#history-list [data-act=open]")).to_have_text([words])
        expect(users(owner)).to_have_count(0)
        expect(owner.locator("#history-list")).not_to_contain_text("guest's words")


def test_an_answer_to_a_guest_that_reaches_its_time_limit_can_be_continued(page: Page, owner: Page, app: App) -> None:
    load(owner, app, "endless")
    limit_answers(owner, app, "  answer_seconds: 2\n")
    send(page, "Count")
    expect(notice(page)).to_contain_text("Answers to guests end after 2 seconds. Press Continue to read on.")
    before = len(answers(page).inner_text())
    page.locator("#chat-turns").get_by_role("button", name="Continue").click()
    expect(page.locator("#stop")).to_be_visible()
    expect(notice(page)).to_contain_text("Answers to guests end after 2 seconds.")
    expect(page.locator("#send")).to_be_visible()
    assert len(answers(page).inner_text()) > before
    limit_answers(owner, app, "")


def limit_answers(owner: Page, app: App, limit: str) -> None:
    """Have the program read settings with or without a limit."""
    (app.config / "settings.yaml").write_text(SETTINGS + limit, "utf-8")
    open_tab(owner, "Models")
    with owner.expect_response("**/run/predict"):
        owner.locator("#reload-models").click()
    open_tab(owner, "Chat")


def test_closing_to_guests_stops_and_refuses_them_until_it_is_opened_again(page: Page, owner: Page, app: App) -> None:
    load(owner, app, "endless")
    send(page, "Count")
    expect(live(page)).to_contain_text("seven")
    owner.locator("#close-to-guests").click()
    expect(owner.locator("#guests-line")).to_have_text("Closed to guests.")
    expect(answers(page)).to_contain_text("one two three")
    expect(status(page)).to_have_text("closed to guests")
    send(page, "Go on")
    expect(notice(page)).to_have_text("The owner has closed this chat to guests.")
    expect(box(page)).to_have_value("Go on")
    ask_and_stop(owner)
    owner.get_by_role("button", name="Open to guests").click()
    expect(owner.locator("#guests-line")).to_contain_text("Open: guests can chat")
    expect(status(page)).to_have_text("endless ready")
    ask_and_stop(page)


def ask_and_stop(page: Page) -> None:
    """Have an answer that never ends begin, and stop it."""
    send(page, "Count on")
    expect(live(page)).to_contain_text("one two")
    stop(page)


def test_after_the_logout_the_page_is_gone_also_after_going_back(owner: Page) -> None:
    owner.locator("#log-out").click()
    expect_login(owner)
    owner.go_back()
    expect_login(owner)


def test_after_the_logout_the_owners_other_window_can_do_nothing(page: Page, browser: Browser, app: App) -> None:
    with somebody(browser) as (context, watch):
        window = log_in(context, app)
        load(window, app, "tiny")
        other = log_in_already(context, app)
        other.locator("#log-out").click()
        expect_login(other)
        window.locator("#unload-model").click()
        expect(window.get_by_text(ONLY_OWNER)).to_have_count(1)
        send(window, "Hello?")
        expect(window.get_by_text(ONLY_OWNER)).to_have_count(2)
        expect(users(window)).to_have_count(0)
        window.close()
        forget_refusals(watch)
    ask(page, "Is the model still there?")


def log_in_already(context: BrowserContext, app: App) -> Page:
    """Open the owner's page in another window of the same browser, which asks for no passphrase."""
    page = at_login(context, app)
    expect(page).to_have_url(f"{app.url}/owner/")
    expect(box(page)).to_be_editable()
    return page


def test_with_a_passphrase_this_computers_page_is_a_login_and_nothing_else(
    context: BrowserContext, watch: Watch, local: App
) -> None:
    page = context.new_page()
    page.goto(local.url)
    expect_login(page)
    expect(page.get_by_role("link")).to_have_count(0)
    assert page.evaluate("async () => (await fetch('/config')).status") == 403
    forget_refusals(watch)
    enter(page, PASSPHRASE)
    expect(page.get_by_role("tab")).to_have_text(["Chat", "Models", "Parameters"])
    expect(page.locator("#guests-line")).to_have_text("Only you can use this page.")
    expect(page.locator("#close-to-guests")).to_be_hidden()
    page.locator("#log-out").click()
    expect_login(page)
    forget_late(watch)


@pytest.fixture
def framing(browser: Browser) -> Iterator[Page]:
    """A window in which other sites show the Space in a frame."""
    framing = launch_browser(browser.browser_type, *FRAMING_FLAGS)
    page = framing.new_page()
    page.set_default_timeout(PATIENCE)
    yield page
    framing.close()


def frame_at(page: Page, address: str, app: App) -> FrameLocator:
    """Open a page that shows the app in a frame."""

    def answer(route: Route) -> None:
        body = f'<!doctype html><iframe src="{app.url}" style="width: 100%; height: 95vh"></iframe>'
        route.fulfill(body=body, content_type="text/html")

    page.route(address, answer)
    page.goto(address)
    return page.frame_locator("iframe")


def test_a_space_is_chatted_with_in_the_hubs_frame(framing: Page, space: App) -> None:
    frame = frame_at(framing, HUB_PAGE, space)
    expect(frame.locator("#model-status")).to_have_text("tiny ready")
    frame.locator("#chat-input textarea").fill("Hello")
    frame.locator("#chat-input textarea").press("Enter")
    expect(frame.locator("#chat-turns [data-testid=bot]").first).to_contain_text(FIRST_WORDS)


def test_no_other_site_may_show_a_space_in_a_frame(framing: Page, space: App) -> None:
    with framing.expect_console_message(lambda message: "frame-ancestors" in message.text):
        frame = frame_at(framing, ANOTHER_PAGE, space)
    expect(frame.locator("#page")).to_have_count(0)


def test_the_owner_of_a_space_hears_that_its_disk_is_temporary(
    context: BrowserContext, watch: Watch, space: App
) -> None:
    page = log_in(context, space)
    expect(page.locator("#temporary-disk")).to_contain_text("This Space's disk is temporary")
    expect(page.locator("#guests-line")).to_have_text("Open: guests can chat at https://someone-llamaforge.hf.space")


@pytest.mark.parametrize(("context", "look"), LOOKS, indirect=["context"])
def test_the_shared_pages_look_right_in_two_sizes_and_lights(page: Page, owner: Page, app: App, look: str) -> None:
    load(owner, app, "tiny")
    ask(page, "Hello! What do you know, and how would one print it?")
    expect(answers(page)).to_contain_text(FIRST_WORDS)
    picture(page, f"guest-{look}")
    at_owners = at_login(page.context, app)
    picture(at_owners, f"login-{look}")
    enter(at_owners, PASSPHRASE)
    expect(at_owners.locator("#guests-line")).to_contain_text("Open")
    expect(status(at_owners)).to_contain_text("ready")
    picture(at_owners, f"owner-{look}")


def picture(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
