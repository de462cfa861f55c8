"""What to write instead: the cure for each field of an event, as dead letters and errors say it."""

from schemas.events import EventType

CURES = {
    "specversion": 'write "1.0"',
    "id": "write 1 to 256 characters, none of them a control character",
    "source": "write 1 to 256 characters, none of them a control character",
    "type": "write one of the contract's event types",
    "time": "write an RFC 3339 date-time with offset, as in 2026-11-22T10:00:00.123Z",
    "startsAt": "write an RFC 3339 date-time with offset, or leave it out",
    "endsAt": "write an RFC 3339 date-time with offset, or leave it out",
    "data": "write a JSON object",
    "bookingId": "write 1 to 128 characters, none of them a control character",
    "sessionId": "write 1 to 250 characters, none of them a control character",
    "participantId": "write 1 to 128 characters, none of them a control character",
    "numberOfAttendees": "write a whole number from 0 to 100000, or leave it out",
    "numberOfParticipants": "write a whole number from 1 to 100000",
    "walkInsAllowed": "write true or false, or leave it out",
    "serviceType": "write APPOINTMENT, CLASS or COURSE, or leave it out",
    "status": "",
    "sessions": "write a list of sessions with a sessionId each, or leave it out",
}
STATUS_CURES = {
    EventType.SET: "write NOT_SET, ATTENDED or NOT_ATTENDED",
    EventType.BOOKING_UPSERTED: "write CONFIRMED or CANCELED, or leave it out",
}
