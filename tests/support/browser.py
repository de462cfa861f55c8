"""Debian's Chromium, driven by Playwright: pages in contexts of their own, and what went wrong in them.

Playwright's loop runs in the thread that started it, so what runs a loop of its own there goes to another thread: `aside`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Self, TypeVar
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Error, Page, Request, expect, sync_playwright

T = TypeVar("T")

#: It runs as root, without a graphics card, and asks nobody for updates.
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
_ARGUMENTS += ["--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"]
#: How long a page may take for whatever is waited for, milliseconds.
PATIENCE_MS = 10_000
expect.set_options(timeout=PATIENCE_MS)


class Visit:
    """A page, and what went wrong in it."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.url = url
        self.page: Page = context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.errors: list[str] = []
        self._host = urlsplit(url).netloc
        self.page.on("console", self._note_message)
        self.page.on("pageerror", lambda error: self.errors.append(f"script: {error}"))
        self.page.on("dialog", self._note_dialog)
        context.on("request", self._note_request)

    def open(self, path: str) -> Page:
        """Opens a path of the API."""
        self.page.goto(self.url + path)
        return self.page

    def sign_in(self, token: str, path: str = "/") -> Page:
        """Signs in by the page for it, then opens a path."""
        self.open("/screen/sign-in")
        self.page.get_by_label("Token").fill(token)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.wait_for_url(self.url + "/")
        return self.open(path) if path != "/" else self.page

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text} {message.location}")

    def _note_dialog(self, dialog: Dialog) -> None:
        self.errors.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note_request(self, request: Request) -> None:
        address = urlsplit(request.url)
        if address.netloc != self._host and address.scheme not in ("data", "blob", "about"):
            self.errors.append(f"request to another host: {request.url}")


class Chromium:
    """A running Chromium; use as a context manager."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        playwright = self._stack.enter_context(sync_playwright())
        self._browser = playwright.chromium.launch(executable_path=self._program, args=_ARGUMENTS)
        self._stack.callback(self._browser.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def visit(
        self,
        url: str,
        *,
        size: tuple[int, int] = (1280, 900),
        pixels: int = 1,
        scheme: Literal["light", "dark"] = "light",
        cookies: Mapping[str, str] | None = None,
        has_csp: bool = True,
    ) -> Iterator[Visit]:
        """A page in a context of its own, which is closed afterwards; a failure of the block says what it shows."""
        context = self._browser.new_context(
            viewport={"width": size[0], "height": size[1]},
            device_scale_factor=pixels,
            color_scheme=scheme,
            reduced_motion="reduce",
            bypass_csp=not has_csp,
            locale="en-GB",
            timezone_id="Europe/Amsterdam",
        )
        context.add_cookies([{"name": name, "value": value, "url": url} for name, value in (cookies or {}).items()])
        with contextlib.closing(context):
            visit = Visit(context, url)
            try:
                yield visit
            except BaseException as failure:
                with contextlib.suppress(Error):
                    shown = visit.page.locator("body").inner_text()[:700]
                    failure.add_note(f"{visit.page.url} shows:\n{shown}")
                failure.add_note(f"what went wrong on it: {visit.errors}")
                raise


def aside(work: Callable[[], T]) -> T:
    """Does something in another thread, in which no loop runs, and returns its result."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()
