"""What the views of the screen show: every text as text, whatever it holds, and what changes as it changes."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from schemas.times import format_time
from tests.support.screen import Page, page, partials, stream
from tests.support.services.processes import wait_until
from tests.support.serving import MINUTE, Api, booking_name, event, upserted
from tests.web.test_ops_reads import published
from worker.web.screen.paths import HISTORY, VIEW_PATHS, link

#: Ids that would break a page which does not escape, percent-encode or isolate them.
ODD = [
    "<script>alert(1)</script>",
    "</bdi></td><img src=x onerror=alert(1)>",
    "\"'><b onmouseover=alert(1)>",
    "{{ 7*7 }}{% raw %}",
    "a/b?c=d&e=f#g%2F%20+",
    "&lt;b&gt; &amp;",
    "🎟️ بطاقة \u202e reversed",
    "</hx-partial><hx-partial hx-target=body>",
]


def window(minutes: int, length: int = 60) -> dict[str, str]:
    starts = datetime.now(UTC) + timedelta(minutes=minutes)
    return {"startsAt": f"{starts:%Y-%m-%dT%H:%M:%SZ}", "endsAt": f"{starts + timedelta(minutes=length):%Y-%m-%dT%H:%M:%SZ}"}


def named(prefix: str) -> str:
    return f"{prefix}{uuid4().hex[:8]}"


def assert_is_text(shown: Page, *texts: str) -> None:
    """No element or attribute of the page is of these texts, and each is in its text as it was written."""
    for each in shown.elements:
        assert each.tag not in {"img", "b"}
        assert not [name for name in each.attributes if name.startswith("on")]
        assert each.tag != "script" or (each.attributes["src"] or "").startswith("/screen/static/")
        assert "style" not in each.attributes
    for text in texts:
        assert text in shown.text


@pytest.mark.parametrize("odd", ODD)
def test_every_view_shows_every_text_as_text(api: Api, odd: str) -> None:
    booking, session, source = named(odd), named(odd), f"/{odd}"
    no_match = event("set", booking, session, status="NOT_ATTENDED", numberOfAttendees=3)
    published(api, upserted(booking, 2, [{"sessionId": session, **window(-10)}]), {**no_match, "source": source})
    views: list[tuple[str, dict[str, str], tuple[str, ...]]] = [
        (VIEW_PATHS["now"], {}, (session,)),
        (VIEW_PATHS["session"], {"id": session, "q": booking[:20]}, (session, booking, source)),
        (VIEW_PATHS["session"], {"id": session, "show": "alert"}, (session, booking, source)),
        (VIEW_PATHS["booking"], {"id": booking}, (booking, session, source)),
        (VIEW_PATHS["alerts"], {"kind": "STATUS_COUNT_MISMATCH"}, (booking, session)),
        # the session there is an estimate, which comes a second later
        (VIEW_PATHS["devices"], {}, (source,)),
        (HISTORY, {"booking": booking, "session": session}, (booking, session, source)),
    ]
    for path, query, texts in views:
        shown = page(api, path, **query)
        assert_is_text(shown, *texts)
        for each in shown.all("a"):
            target = each.attributes["href"] or ""
            assert target.startswith(("/", "#")), target
            assert not target.startswith("//")
    # links lead where they say
    alerts = page(api, VIEW_PATHS["alerts"], kind="STATUS_COUNT_MISMATCH")
    for target in (link(VIEW_PATHS["session"], id=session), link(VIEW_PATHS["booking"], id=booking)):
        assert alerts.all("a", href=target)
        assert api.client.get(target).status_code == 200
    with stream(api, "session", id=session) as messages:
        html = partials(next(messages))
        assert set(html) == {"session-summary", "roster", "announcement", "freshness"}
        assert_is_text(Page(html["roster"]), booking, source)


def test_ids_of_the_greatest_length(api: Api) -> None:
    booking, session = named("L" * 120), named("S" * 242)
    published(api, upserted(booking, 2, [{"sessionId": session, **window(-10)}]))
    assert session in page(api, VIEW_PATHS["session"], id=session).text
    assert booking in page(api, VIEW_PATHS["booking"], id=booking).text
    for path in (VIEW_PATHS["session"], VIEW_PATHS["booking"]):
        assert "missing" in str(page(api, path, 404, id="x" * 300).all(data_testid="missing"))


def test_what_does_not_exist_yet_is_a_404_that_fills_itself(api: Api) -> None:
    session = named("later-")
    shown = page(api, VIEW_PATHS["session"], 404, id=session)
    assert shown.all(data_testid="missing")
    assert shown.all(id="live")
    with stream(api, "session", id=session) as messages:
        assert "No booking lists" in partials(next(messages))["session-summary"]
        published(api, event("check_in", booking_name(), session, numberOfAttendees=4))
        summary = next(html["session-summary"] for each in messages if "session-summary" in (html := partials(each)))
    assert '<dd data-testid="came">1</dd>' in summary


def test_now_shows_sessions_by_their_time(api: Api) -> None:
    running, coming, ended = named("running-"), named("next-"), named("ended-")
    for session, minutes in ((running, -5), (coming, 1), (ended, -61)):
        booking = booking_name()
        published(api, upserted(booking, 4, [{"sessionId": session, **window(minutes)}]), event("check_in", booking, session))
    html = api.client.get("/").text
    order = [html.index(text) for text in ("group-running", running, "group-next", coming, "group-ended", ended)]
    assert order == sorted(order)


def roster(shown: Page) -> list[Any]:
    return [(each.attributes["id"], each.attributes["data-state"]) for each in shown.all("tr", data_testid="booking")]


def test_a_roster_is_searched_filtered_sorted_and_paged(api: Api) -> None:
    session = named("roster-")
    bookings = [f"{'AB'[n % 2]}-{n:03d}-{uuid4().hex[:4]}" for n in range(70)]
    published(
        api,
        *(upserted(each, 3, [{"sessionId": session}]) for each in bookings),
        *(event("check_in", each, session, numberOfAttendees=9 if n == 0 else 1) for n, each in enumerate(bookings[:10])),
        *(event("no_show", each, session) for each in bookings[10:14]),
    )
    path = VIEW_PATHS["session"]
    first = page(api, path, id=session)
    (following,) = first.all("a", rel="next")
    assert len(roster(first)) == 50
    second = Page(api.client.get(following.attributes["href"] or "").text)
    assert len({*roster(first), *roster(second)}) == 70
    assert not second.all("a", rel="next")
    assert len(roster(page(api, path, id=session, q="A-"))) == 35
    states = {
        show: [state for _, state in roster(page(api, path, id=session, show=show))] for show in ("came", "absent", "missing")
    }
    assert states["came"] == ["ATTENDED"] * 10
    assert states["absent"] == ["NOT_ATTENDED"] * 4
    assert set(states["missing"]) == {"NO_ATTENDANCE"}
    assert len(roster(page(api, path, id=session, show="alert"))) == 1
    by_status = [state for _, state in roster(page(api, path, id=session, order="status"))]
    assert by_status[:14] == ["ATTENDED"] * 10 + ["NOT_ATTENDED"] * 4
    for wrong in ({"show": "none"}, {"order": "size"}, {"cursor": "AAAA"}):
        page(api, path, 400, id=session, **wrong)


def test_a_stream_sends_what_changed_and_no_more(api: Api) -> None:
    session, booking = named("live-"), booking_name()
    published(api, upserted(booking, 4, [{"sessionId": session, **window(-5)}]))
    with stream(api, "session", id=session) as messages:
        first = next(messages)
        assert first.event == ""
        assert first.id
        published(api, event("check_in", booking, session, numberOfAttendees=2))
        changed = next(html for each in messages if "roster" in (html := partials(each)))
    assert 'data-state="ATTENDED"' in changed["roster"]


def test_alerts_open_and_close_on_the_stream(api: Api) -> None:
    booking, session = booking_name(), named("alerts-")
    with stream(api, "alerts", kind="PARTICIPANTS_EXCEEDED") as messages:
        next(messages)
        published(api, upserted(booking, 1, [{"sessionId": session}]), event("check_in", booking, session, numberOfAttendees=5))
        assert any(booking in partials(each).get("alerts", "") for each in messages)
        published(api, event("cleared", booking, session))
        assert any("alerts" in (html := partials(each)) and booking not in html["alerts"] for each in messages)


def test_a_booking_shows_its_run_and_its_sessions_in_order(api: Api) -> None:
    booking = booking_name()
    sessions = [named(f"{'cab'[n]}-") for n in range(3)]
    listed = [{"sessionId": each, **window(-1000 + n)} for n, each in enumerate(sessions)]
    published(api, upserted(booking, 2, listed), *(event("no_show", booking, each) for each in sessions))
    html = api.client.get(link(VIEW_PATHS["booking"], id=booking)).text
    order = [html.index(f"/screen/history?booking={booking}&amp;session={each}") for each in sessions]
    assert order == sorted(order)
    assert "<dt>Longest run missed</dt><dd>3</dd>" in html
    assert "Frequent no shows" in html


def test_the_system_view_shows_every_partition(api: Api) -> None:
    shown = page(api, VIEW_PATHS["system"])
    for number in range(api.system.settings.partitions):
        assert shown.all("tr", id=f"partition-{number}")
    (fresh,) = [each for each in shown.all("p") if "data-level" in each.attributes]
    assert fresh.attributes["data-level"] in {"live", "behind"}


def test_arrivals_are_drawn_by_minute_and_told_in_words(api: Api) -> None:
    session, now = named("chart-"), time.time_ns() // 1000
    bookings = [booking_name() for _ in range(3)]
    published(
        api,
        *(upserted(each, 9, [{"sessionId": session, **window(-20)}]) for each in bookings),
        *(event("check_in", each, session, now - n * 5 * MINUTE, numberOfAttendees=n + 1) for n, each in enumerate(bookings)),
    )
    for path, query in ((VIEW_PATHS["session"], {"id": session}), (VIEW_PATHS["now"], {})):
        charts = [each.attributes["aria-label"] or "" for each in page(api, path, **query).all("svg", role="img")]
        assert [text for text in charts if "6 in all, at most 3 in a minute" in text]


def test_a_device_that_went_silent_in_a_running_session(api: Api) -> None:
    session, source, booking = named("silent-"), f"/gates/{named('gate-')}", booking_name()
    published(api, upserted(booking, 9, [{"sessionId": session, **window(-20)}]))
    now = time.time_ns() // 1000
    for seconds in range(320, 300, -2):
        # one batch each: a rhythm takes several gaps
        at = now - seconds * 1_000_000
        document = {**event("check_in", booking, session, at), "source": source}
        api.system.publish([api.system.event(document, [("attendance-received", format_time(at).encode())])])
        api.system.until_applied()

    def silent() -> Page | None:
        shown = page(api, VIEW_PATHS["devices"])
        return shown if shown.all("ul", data_testid="silent") and source in shown.text else None

    assert wait_until(lambda: silent() is not None, 20)
    assert page(api, VIEW_PATHS["now"]).all("a", data_testid="silent-devices")


def test_an_unknown_view_has_no_stream(api: Api) -> None:
    for query in ("", "?view=", "?view=none", "?view=alerts&kind=NONE"):
        assert api.client.get(f"/screen/live{query}").status_code in (400, 404)


def test_now_shows_what_runs_after_a_long_history(api: Api) -> None:
    ended = [{"sessionId": named("long-ago-"), **window(-60 * 24 * 30 + minute)} for minute in range(1_400)]
    running = named("runs-")
    published(api, upserted(booking_name(), 1, ended), upserted(booking_name(), 1, [{"sessionId": running, **window(-10)}]))
    shown = page(api, VIEW_PATHS["now"])
    assert running in shown.text
    assert not shown.all(data_testid="group-others")


def test_a_session_moves_from_next_to_running_by_itself(api: Api) -> None:
    session, starts = named("begins-"), datetime.now(UTC) + timedelta(seconds=7)
    times = {"startsAt": f"{starts:%Y-%m-%dT%H:%M:%SZ}", "endsAt": f"{starts + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}"}
    published(api, upserted(booking_name(), 1, [{"sessionId": session, **times}]))
    groups = []
    with stream(api, "now") as messages:
        for message in messages:
            html = partials(message).get("now", "")
            if session in html:
                groups.append("next" if "group-next" in html[: html.index(session)] else "running")
            if groups[-1:] == ["running"]:
                break
    assert groups[0] == "next"
