"""What the screen's tests look at: sessions that run now, alerts of every kind, and texts that look like HTML."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from schemas.times import format_time
from tests.support.browser import aside
from tests.support.serving import MINUTE, Api, event, upserted

#: It would show a dialog, add an element or end an attribute, if it were taken for HTML.
NASTY = "<img src=x onerror=alert(1)>\"'<b id=nasty>&amp;"
SESSION, BOOKING = "yoga", "BK-1"
SOURCES = ("/gates/north/kiosk-1", "/gates/south/kiosk-2")


class Stage:
    """A tenant and its API."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def publish(self, documents: Iterable[dict[str, Any]]) -> None:
        """Publishes events and booking records."""
        system = self.api.system
        made = [system.booking(each) if each["type"].startswith("booking.") else system.event(each) for each in documents]
        aside(lambda: system.publish(made))

    def sample(self) -> list[dict[str, Any]]:
        """Four sessions around now, thirty bookings of one of them, and alerts."""
        now = time.time_ns() // 1000
        sessions = [
            listed(name, now + starts * MINUTE, now + ends * MINUTE)
            for name, starts, ends in ((SESSION, -30, 30), (NASTY, -20, 40), ("next", 25, 85), ("ended", -80, -10))
        ]
        documents = [upserted(f"BK-{number}", 1 + number % 3, sessions) for number in range(30)]
        documents += [upserted(NASTY, 2, sessions)]
        for number in range(20):
            came = event("check_in", f"BK-{number}", SESSION, now - number * MINUTE, numberOfAttendees=1 + number % 3)
            documents.append({**came, "source": SOURCES[number % 2]})
        documents += [event("no_show", f"BK-{number}", "ended", now - 10 * MINUTE) for number in range(5)]
        # an alert of each kind
        nasty = event("participant_scanned", NASTY, NASTY, now - MINUTE, participantId=NASTY)
        documents += [
            {**nasty, "source": NASTY},
            event("check_in", NASTY, NASTY, now - 2 * MINUTE, numberOfAttendees=50),
            event("set", "BK-20", SESSION, now - MINUTE, status="NOT_ATTENDED", numberOfAttendees=3),
            event("check_in", "BK-21", SESSION, now + 24 * 60 * MINUTE),
            event("check_in", "BK-22", "unlisted", now - MINUTE),
            event("check_in", "BK-23", SESSION, now - 2 * MINUTE),
            {**event("no_show", "BK-23", SESSION, now - MINUTE), "source": SOURCES[1]},
            *(event("no_show", "BK-24", name, now - MINUTE) for name in (SESSION, "ended", NASTY)),
            upserted("BK-25", 1, sessions, status="CANCELED"),
            event("check_in", "BK-25", SESSION, now - MINUTE),
        ]
        return documents


def listed(name: str, starts: int, ends: int) -> dict[str, Any]:
    """A session as a booking lists it; microseconds."""
    return {"sessionId": name, "startsAt": format_time(starts), "endsAt": format_time(ends)}


def path_of(view: str, **query: str) -> str:
    """The path of a view, with its query."""
    path = "/" if view == "now" else f"/screen/{view}"
    return path + ("?" + "&".join(f"{name}={quote(text, safe='')}" for name, text in query.items()) if query else "")


#: Every view with data in it.
VIEWS = {
    "now": path_of("now"),
    "session": path_of("session", id=SESSION),
    "booking": path_of("booking", id="BK-24"),
    "alerts": path_of("alerts"),
    "devices": path_of("devices"),
    "system": path_of("system"),
    "history": path_of("history", booking="BK-23", session=SESSION),
}
#: Every view of what looks like HTML.
NASTY_VIEWS = {
    "now": path_of("now"),
    "session": path_of("session", id=NASTY),
    "search": path_of("session", id=NASTY, q=NASTY),
    "booking": path_of("booking", id=NASTY),
    "alerts": path_of("alerts"),
    "devices": path_of("devices"),
    "system": path_of("system"),
    "history": path_of("history", booking=NASTY, session=NASTY),
    "missing": path_of("session", id=NASTY + "2"),
}
