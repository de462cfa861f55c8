"""Get, set and delete of one attendance."""

from tests.web.serving import Api, booking_name, identity


def test_a_set_is_shown(api: Api) -> None:
    booking = booking_name()
    done = api.set(booking, "s1", "ATTENDED", 3)
    assert done.status_code == 200, done.text
    shown = done.json()["attendance"]
    wanted = {"bookingId": booking, "sessionId": "s1", "status": "ATTENDED", "numberOfAttendees": 3, "source": "/api"}
    assert shown == {"id": identity(booking, "s1"), "updatedDate": shown["updatedDate"], **wanted}
    assert api.get(booking, "s1").json() == done.json()
