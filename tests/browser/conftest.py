"""One browser for these tests, one app a module, one visitor a test; a page that errs fails its test at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from page_kit import App, Watch, launch_browser, visit
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright


@pytest.fixture(scope="package")  # Playwright keeps an event loop running, which other tests could not stand
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = launch_browser(playwright.chromium)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("app")


@pytest.fixture
def context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[BrowserContext]:
    """A visitor's browser; a test may ask for another window or colour scheme by an indirect parameter."""
    settings = {"viewport": {"width": 1280, "height": 900}} | getattr(request, "param", {})
    context = browser.new_context(**settings)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield context
    context.close()


@pytest.fixture
def watch(context: BrowserContext) -> Iterator[Watch]:
    watch = Watch(context)
    yield watch
    watch.look_at_pages(context)
    assert watch.seen == []


@pytest.fixture
def page(context: BrowserContext, watch: Watch, app: App) -> Page:
    return visit(context, app)
