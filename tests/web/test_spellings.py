"""One booking in several spellings is one booking to every call that takes its id."""

from urllib.parse import quote

from tests.support.serving import Api, booking_name, event, upserted
from tests.web.test_attendances import problem
from tests.web.test_events import BATCH, post


def test_every_spelling_of_an_id_finds_the_same(api: Api) -> None:
    name = booking_name()
    composed, decomposed = f"{name} M\u00fcller", f"{name} Mu\u0308ller"
    spellings = [composed, decomposed, f"\ufeff{decomposed}\u200b", f"\u2060 {composed}\u00ad"]
    sent = [upserted(spellings[1], 1, [{"sessionId": spellings[2]}])]
    sent += [event("check_in", each, spellings[number - 1], numberOfAttendees=5) for number, each in enumerate(spellings)]
    assert post(api, sent, BATCH).status_code == 202
    api.system.until_applied()
    for each in spellings:
        found = api.client.post("/bookings/v2/attendance/query", json={"query": {"filter": {"bookingId": each}}}).json()
        assert [(one["bookingId"], one["sessionId"]) for one in found["attendances"]] == [(composed, composed)]
        by_session = api.client.post("/bookings/v2/attendance/count", json={"filter": {"sessionId": {"$in": [each]}}})
        assert by_session.json() == {"count": 1}
        assert api.client.get(f"/v1/sessions/{quote(each)}").json()["attendees"] == 5
        assert api.client.get(f"/v1/bookings/{quote(each)}").json()["attended"] == 1
        for field in ("bookingId", "sessionId"):
            alerts = api.client.get("/v1/alerts", params={field: each}).json()["alerts"]
            assert [alert["kind"] for alert in alerts] == ["PARTICIPANTS_EXCEEDED"]
    asked = {"bookingId": spellings[2], "sessionId": spellings[3], "status": "NOT_ATTENDED"}
    done = api.client.post("/bookings/v2/attendance/set", json={"attendance": asked}).json()["attendance"]
    assert (done["bookingId"], done["sessionId"], done["status"]) == (composed, composed, "NOT_ATTENDED")


def test_what_can_be_no_id_is_nobodys(api: Api) -> None:
    for none in ("a\u009b", "\ufeff", "x" * 300):
        assert problem(api.client.get(f"/v1/sessions/{quote(none)}"), 404) == "SESSION_NOT_FOUND"
        assert problem(api.client.get(f"/v1/bookings/{quote(none)}"), 404) == "BOOKING_NOT_FOUND"
        assert api.client.get("/v1/alerts", params={"bookingId": none}).json()["alerts"] == []
        assert api.client.get("/v1/alerts", params={"sessionId": none}).json()["alerts"] == []
