"""An attendance as readers get it, with what a test does not name left at the usual."""

from typing import Any

from schemas.attendance import Attendance, AttendanceStatus

GUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


def attendance(**said: Any) -> Attendance:
    usual: Any = {
        "id": GUID,
        "bookingId": "b1",
        "sessionId": "s1",
        "status": AttendanceStatus.ATTENDED,
        "numberOfAttendees": 2,
        "updatedDate": "2026-11-22T10:00:00.123Z",
        "source": "/devices/kiosk-7",
    }
    return usual | said
