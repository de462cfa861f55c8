"""How to fix each field of an event, for dead letters and error messages."""

from schemas import ids
from schemas.events import EventType

FIX_HINTS = {
    "specversion": 'write "1.0"',
    "id": f"write 1 to {ids.MAX_NAME} characters, none of them a control character",
    "source": f"write 1 to {ids.MAX_NAME} characters, none of them a control character",
    "type": "write one of the contract's event types",
    "time": "write an RFC 3339 date-time with offset, as in 2026-11-22T10:00:00.123Z",
    "startsAt": "write an RFC 3339 date-time with offset, or leave it out",
    "endsAt": "write an RFC 3339 date-time with offset, or leave it out",
    "data": "write a JSON object",
    "bookingId": f"write 1 to {ids.MAX_BOOKING_ID} characters, none of them a control character",
    "sessionId": f"write 1 to {ids.MAX_SESSION_ID} characters, none of them a control character",
    "participantId": f"write 1 to {ids.MAX_PARTICIPANT_ID} characters, none of them a control character",
    "numberOfAttendees": f"write a whole number from 0 to {ids.MAX_ATTENDEES}, or leave it out",
    "numberOfParticipants": f"write a whole number from 1 to {ids.MAX_PARTICIPANTS}",
    "walkInsAllowed": "write true or false, or leave it out",
    "serviceType": "write APPOINTMENT, CLASS or COURSE, or leave it out",
    "status": "",
    "sessions": "write a list of sessions with a sessionId each, or leave it out",
}
STATUS_FIX_HINTS = {
    EventType.SET: "write NOT_SET, ATTENDED or NOT_ATTENDED",
    EventType.BOOKING_UPSERTED: "write CONFIRMED or CANCELED, or leave it out",
}
