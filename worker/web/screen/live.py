"""The stream of a page: its view and the freshness, as they change."""

from fastapi import Request, Response

from worker.web.live.events import live_response
from worker.web.screen.freshness import FreshnessSource
from worker.web.screen.stream import FragmentWriter
from worker.web.screen.views.view import View
from worker.web.services import services_of


def open_stream(request: Request, view: View) -> Response:
    """Server-sent events with the fragments of a view; without names, since htmx swaps those alone."""
    freshness = FreshnessSource(services_of(request).reader)
    return live_response(request, [view, freshness], FragmentWriter(view, freshness).write)
