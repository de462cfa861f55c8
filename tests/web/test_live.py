"""`GET /v1/live`: a snapshot, then what changes, as server-sent events."""

from uuid import uuid4

from tests.support.serving import Api, booking_name, event, upserted
from tests.support.streaming import LiveStream


def session_name() -> str:
    """A session that no other test has."""
    return f"live-{uuid4().hex[:12]}"


def publish(api: Api, *documents: dict[str, object]) -> None:
    system = api.system
    system.publish([(system.booking if str(each["type"]) == "booking.upserted" else system.event)(each) for each in documents])


def test_an_event_that_is_published_appears(api: Api) -> None:
    session, booking = session_name(), booking_name()
    with LiveStream(api, [("sessions", session), ("booking", booking)]) as stream:
        stream.until(lambda: stream.named("snapshot"))
        assert stream.status == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        assert all(1000 <= each <= 2000 for each in stream.retry_ms)
        (snapshot,) = stream.named("snapshot")
        assert snapshot.data["sessions"] == {session: None}
        assert snapshot.data["bookings"] == {booking: None}
        assert snapshot.data["status"]["rebuild"] == "SERVING"
        assert "alerts" not in snapshot.data
        publish(api, upserted(booking, 3, [{"sessionId": session}]), event("check_in", booking, session, numberOfAttendees=3))
        stream.until(lambda: stream.tally(session).get("attendees") == 3)
        stream.until(lambda: (stream.values["bookings"][booking] or {}).get("attended") == 1)
        tally = api.client.get(f"/v1/sessions/{session}").json()
        del tally["freshness"]
        assert stream.tally(session) == tally
        publish(api, event("cleared", booking, session))
        stream.until(lambda: stream.tally(session).get("notSet") == 1)
