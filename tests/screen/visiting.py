"""Signed-in pages, and what tests wait for on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Page, expect

from tests.support.browser import Chromium, Visit
from tests.support.serving import Api
from worker.web.screen.paths import COOKIE


@contextmanager
def visiting(chromium: Chromium, api: Api, path: str, token: str = "read", **more: Any) -> Iterator[Visit]:
    """A signed-in page at a path."""
    with chromium.visit(api.url, cookies={COOKIE: api.tokens[token]}, **more) as visit:
        visit.open(path)
        yield visit


@contextmanager
def spotless(chromium: Chromium, api: Api, path: str, token: str = "read", **more: Any) -> Iterator[Visit]:
    """As `visiting`; nothing may go wrong on the page."""
    with visiting(chromium, api, path, token, **more) as visit:
        yield visit
        assert visit.errors == []


def is_live(page: Page, seconds: float = 10) -> None:
    """Waits until the page says that what it shows is current."""
    expect(page.locator("#freshness [data-level=live]")).to_be_visible(timeout=seconds * 1000)
    expect(page.locator("html[data-connection=connected]")).to_be_attached(timeout=seconds * 1000)
