"""The stream of a page: fragments that changed, each for the element that it is swapped into by morphing."""

from collections.abc import Hashable, Mapping
from datetime import UTC, datetime

from markupsafe import Markup

from worker.web.live.source import Delivery
from worker.web.screen.freshness import ELEMENT, FreshnessSource, FreshnessWords
from worker.web.screen.templates import render
from worker.web.screen.views.view import Rendered, View


class FragmentWriter:
    """Turns the deliveries of one subscriber into HTML: of a view's fragments those that its page does not show yet."""

    def __init__(self, view: View, freshness: FreshnessSource) -> None:
        self._view, self._freshness = view.key, freshness.key
        self._shown: dict[str, Markup] = {}
        self._last = _now()

    def write(self, delivery: Delivery) -> str:
        """The data of the message; empty if the page shows everything already."""
        if delivery.error is not None:
            words = FreshnessWords("stopped", "Not up to date", delivery.error, self._last)
            return self._changed({ELEMENT: render("fragments/freshness.html", fresh=words, away_since=self._last)})
        self._last = _now()
        return self._changed(self._fragments(delivery.values))

    def _fragments(self, values: Mapping[Hashable, object]) -> dict[str, Markup]:
        fragments: dict[str, Markup] = {}
        view, freshness = values.get(self._view), values.get(self._freshness)
        if isinstance(view, Rendered):
            fragments.update(view.fragments)
        if isinstance(freshness, Markup):
            fragments[ELEMENT] = freshness
        return fragments

    def _changed(self, fragments: Mapping[str, Markup]) -> str:
        changed = {element: html for element, html in fragments.items() if self._shown.get(element) != html}
        self._shown.update(changed)
        return render("partials.html", fragments=changed) if changed else ""


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
