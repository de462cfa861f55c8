"""Reads the screen as a browser does, without one: its pages as elements, its streams as messages."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from typing import Any, NamedTuple

import httpx

from tests.support.serving import Api
from worker.web.screen.paths import LIVE, MARK, link

_EMPTY = frozenset({"meta", "link", "input", "br", "hr", "img", "rect", "line", "path"})


class Element(NamedTuple):
    tag: str
    attributes: dict[str, str | None]


class Page(HTMLParser):
    """The elements and the text of a page or fragment; raises AssertionError where tags do not match."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attributes)))
        if tag not in _EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in _EMPTY:
            assert self._open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str | None = None, **attributes: str) -> list[Element]:
        wanted = {name.replace("_", "-"): value for name, value in attributes.items()}
        return [each for each in self.elements if tag in (None, each.tag) and wanted.items() <= each.attributes.items()]

    def value(self, name: str) -> str:
        """Of the field with this name."""
        (field,) = self.all("input", name=name)
        return field.attributes["value"] or ""


def page(api: Api, path: str, status: int = 200, **query: str) -> Page:
    """A page of one with all scopes."""
    got = api.client.get(link(path, **query))
    assert got.status_code == status, got.text
    assert got.headers["content-type"].startswith("text/html")
    return Page(got.text)


def press(api: Api, shown: Page, value: str, **fields: str) -> httpx.Response:
    """Presses a button of the form of marks, as htmx does."""
    form = {name: shown.value(name) for name in ("csrf", "session", "return")}
    return api.client.post(MARK, data={**form, "mark": value, **fields}, headers={"hx-request": "true"})


class Message(NamedTuple):
    id: str
    event: str
    data: str


@contextmanager
def stream(api: Api, view: str, **query: Any) -> Iterator[Iterator[Message]]:
    """The messages of a view's stream."""
    with api.client.stream("GET", link(LIVE, view=view, **query), timeout=30) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield _messages(response)


def _messages(response: httpx.Response) -> Iterator[Message]:
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if not line:
            if "data" in fields:
                yield Message(fields.get("id", ""), fields.get("event", ""), fields["data"])
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


def partials(message: Message) -> dict[str, str]:
    """The HTML of a message by the id of the element that it is for."""
    found = re.findall(r'<hx-partial hx-target="#([a-z-]+)" hx-swap="innerMorph">(.*?)</hx-partial>', message.data)
    return dict(found)
