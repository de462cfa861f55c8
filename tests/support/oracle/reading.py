"""Reads the JSON of schemas/README.md into plain values; validation is not the oracle's business."""

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from tests.support.oracle.shapes import BookingRecord

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))", re.ASCII)
INVISIBLE = (
    "\u0020\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
    "\u00ad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062\u2063\u2064\u2065"
    "\u2066\u2067\u2068\u2069\u206a\u206b\u206c\u206d\u206e\u206f\ufeff"
)
GUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")


class Fact(NamedTuple):
    """One event as the law sees it: two deliveries with equal facts are copies of one event.

    `session` is empty for booking.erased, `number` is None where it was not written.
    """

    booking: str
    session: str
    time: int
    source: str
    id: str
    type: str
    status: str
    number: int | None
    participant: str


class Window(NamedTuple):
    """Start and end that one booking gives for one session, microseconds since the epoch, None where not given."""

    start: int | None
    end: int | None


class Reference(NamedTuple):
    """A known booking; `sessions` is None where the record does not list them."""

    participants: int
    walk_ins: bool
    canceled: bool
    sessions: dict[str, Window] | None


def instant(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 timestamp, cut (not rounded) at the microsecond."""
    match = RFC3339.fullmatch(text)
    if match is None:
        msg = f"not RFC 3339: {text!r}"
        raise ValueError(msg)
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    moment = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    fraction = int(((match[7] or "") + "000000")[:6])
    east = 0 if match[8] is None else (int(match[9]) * 60 + int(match[10])) * (1 if match[8] == "+" else -1)
    return (moment - EPOCH) // timedelta(microseconds=1) + fraction - east * 60_000_000


def written(micros: int) -> str:
    """The instant as the read models write it: RFC 3339, UTC, cut at the millisecond, `Z`."""
    moment = EPOCH + timedelta(microseconds=micros)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def normalised(identifier: str) -> str:
    """A bookingId or sessionId: what is invisible at its ends trimmed, then NFC, a GUID lower-cased."""
    plain = composed(identifier)
    return plain.lower() if GUID.fullmatch(plain) else plain


def composed(identifier: str) -> str:
    """An id without what is invisible at its ends, in NFC."""
    return unicodedata.normalize("NFC", identifier.strip(INVISIBLE))


def fact(event: dict[str, Any]) -> Fact:
    """The fact in a CloudEvent of the events topic; fields its type does not have are ignored."""
    kind, data = event["type"], event["data"]
    number = data.get("numberOfAttendees") if kind in {"attendance.check_in", "attendance.set"} else None
    return Fact(
        booking=normalised(data["bookingId"]),
        session="" if kind == "booking.erased" else normalised(data["sessionId"]),
        time=instant(event["time"]),
        source=event["source"],
        id=event["id"],
        type=kind,
        status=data["status"] if kind == "attendance.set" else "",
        number=number,
        participant=composed(data["participantId"]) if kind == "attendance.participant_scanned" else "",
    )


def earliest(values: list[int | None]) -> int | None:
    """The smallest of the given ones, None where none is given."""
    return min((value for value in values if value is not None), default=None)


def latest(values: list[int | None]) -> int | None:
    """The largest of the given ones, None where none is given."""
    return max((value for value in values if value is not None), default=None)


def listed(sessions: list[dict[str, Any]]) -> dict[str, Window]:
    """The sessions a record lists; one listed twice has the earliest start and the latest end."""
    windows: dict[str, list[Window]] = {}
    for entry in sessions:
        start, end = (instant(entry[name]) if entry.get(name) else None for name in ("startsAt", "endsAt"))
        windows.setdefault(normalised(entry["sessionId"]), []).append(Window(start, end))
    return {
        session: Window(earliest([one.start for one in given]), latest([one.end for one in given]))
        for session, given in windows.items()
    }


def reference(event: dict[str, Any]) -> Reference:
    """The booking in a booking.upserted, left-out fields at their defaults."""
    data = event["data"]
    sessions = data.get("sessions")
    return Reference(
        participants=data["numberOfParticipants"],
        walk_ins=bool(data.get("walkInsAllowed")),
        canceled=data.get("status") == "CANCELED",
        sessions=None if sessions is None else listed(sessions),
    )


def held_records(records: list[BookingRecord]) -> dict[str, BookingRecord]:
    """By booking, the record that holds: the one last received, of several the last in the list."""
    held: dict[str, BookingRecord] = {}
    for record in records:
        booking = normalised(record.key if record.event is None else record.event["data"]["bookingId"])
        if booking not in held or record.received >= held[booking].received:
            held[booking] = record
    return held


def known_bookings(records: list[BookingRecord]) -> dict[str, Reference]:
    """The bookings that are known after these records."""
    return {
        booking: reference(record.event)
        for booking, record in held_records(records).items()
        if record.event is not None and record.event["type"] == "booking.upserted"
    }
