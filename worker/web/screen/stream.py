"""The stream of a page: fragments that changed, each for the element that it is swapped into by morphing."""

from collections.abc import Hashable, Mapping
from datetime import UTC, datetime
from functools import lru_cache

from markupsafe import Markup

from worker.web.live.source import Delivery
from worker.web.screen.freshness import ELEMENT, FreshnessSource, FreshnessWords
from worker.web.screen.templates import render
from worker.web.screen.views.view import Rendered, View

_Fragments = tuple[tuple[str, Markup], ...]


class FragmentWriter:
    """Turns the deliveries of one subscriber into messages: of a view's fragments those that its page does not show yet."""

    def __init__(self, view: View, freshness: FreshnessSource) -> None:
        self._view, self._freshness = view.key, freshness.key
        self._shown: dict[str, Markup] = {}
        self._is_away = False
        self._last = _now()

    def write(self, delivery: Delivery) -> bytes:
        """The message; empty if the page shows everything already."""
        if delivery.error is not None:
            self._is_away = True
            words = FreshnessWords("stopped", "Not up to date", delivery.error, self._last)
            return self._message(delivery.id, {ELEMENT: render("fragments/freshness.html", fresh=words, away_since=self._last)})
        if delivery.is_snapshot:
            self._is_away = False
        if not self._is_away:
            self._last = _now()
        return self._message(delivery.id, self._fragments(delivery.values))

    def _fragments(self, values: Mapping[Hashable, object]) -> dict[str, Markup]:
        fragments: dict[str, Markup] = {}
        view, freshness = values.get(self._view), values.get(self._freshness)
        if isinstance(view, Rendered):
            fragments.update(view.fragments)
        # while the view cannot be read, the page says that, whatever the partitions say
        if isinstance(freshness, Markup) and not self._is_away:
            fragments[ELEMENT] = freshness
        return fragments

    def _message(self, identity: str, fragments: Mapping[str, Markup]) -> bytes:
        changed = {element: html for element, html in fragments.items() if self._shown.get(element) != html}
        if not changed:
            return b""
        self._shown.update(changed)
        return b"id: %b\ndata: %b\n\n" % (identity.encode(), _partials(tuple(changed.items())))


@lru_cache(maxsize=64)
def _partials(fragments: _Fragments) -> bytes:
    """The data of a message, one line; most subscribers of a view get the same."""
    return " ".join(render("partials.html", fragments=fragments).split("\n")).encode()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
