"""Short spellings of deliveries, booking records and results for hand-worked examples and for the strategies."""

from typing import Any, NamedTuple

from tests.support.oracle.reading import instant
from tests.support.oracle.shapes import BookingRecord, Delivery, Outcome, Rules

T0 = instant("2026-11-22T10:00:00Z")
MINUTE = 60_000_000
MILLISECOND = 1_000
KIOSK, SCANNER = "/devices/kiosk-1", "/devices/scanner-1"

Pair = tuple[str, str]
Key = tuple[str, str, str | None]


class Example(NamedTuple):
    """One sentence of schemas/README.md, data in which it matters, and what it comes to; None: not looked at."""

    name: str
    deliveries: list[Delivery]
    bookings: list[BookingRecord] = []  # noqa: RUF012 (a NamedTuple's default, never changed)
    attendances: dict[Pair, dict[str, Any]] | None = None
    tallies: dict[str, dict[str, Any]] | None = None
    summaries: dict[str, dict[str, Any]] | None = None
    alerts: set[Key] | None = None
    rules: Rules = Rules()


def check(example: Example, found: Outcome) -> None:
    """Fail where the outcome is not what the example says; only the fields named in tallies and summaries count."""
    if example.attendances is not None:
        assert found.attendances == example.attendances
    for expected, actual in ((example.tallies, found.tallies), (example.summaries, found.summaries)):
        if expected is not None:
            assert set(actual) == set(expected)
            named = {key: {name: actual[key][name] for name in fields} for key, fields in expected.items()}
            assert named == expected
    if example.alerts is not None:
        assert set(found.alerts) == example.alerts


def at(minutes: float, micros: int = 0) -> int:
    """The instant so many minutes and microseconds after T0."""
    return T0 + round(minutes * MINUTE) + micros


def text(micros: int) -> str:
    """The instant in RFC 3339, UTC, to the microsecond."""
    moment, fraction = divmod(micros - T0, 1_000_000)
    minutes, second = divmod(moment, 60)
    hour, minute = divmod(10 * 60 + minutes, 60)
    day, hour = divmod(hour, 24)
    return f"2026-11-{22 + day:02d}T{hour:02d}:{minute:02d}:{second:02d}.{fraction:06d}Z"


def ev(
    kind: str,
    time: int | str,
    *,
    by: str = KIOSK,
    id: str = "1",
    b: str = "b1",
    s: str | None = "s1",
    received: int | None = None,
    **data: Any,
) -> Delivery:
    """A delivery of `attendance.{kind}` (or of a dotted type), received when it happened unless told otherwise.

    `n` is numberOfAttendees and `p` participantId; a time given as text is taken as it is.
    """
    long = {"n": "numberOfAttendees", "p": "participantId"}
    content = {
        "bookingId": b,
        **({} if s is None else {"sessionId": s}),
        **{long.get(k, k): v for k, v in data.items()},
    }
    event = {
        "specversion": "1.0",
        "id": id,
        "source": by,
        "type": kind if "." in kind else f"attendance.{kind}",
        "time": time if isinstance(time, str) else text(time),
        "data": content,
    }
    happened = instant(time) if isinstance(time, str) else time
    return Delivery(event, happened if received is None else received)


def scan(participant: str, time: int, *, by: str = SCANNER, **rest: Any) -> Delivery:
    """A delivery of attendance.participant_scanned."""
    return ev("participant_scanned", time, by=by, p=participant, **rest)


def erased(time: int, *, b: str = "b1", by: str = KIOSK, received: int | None = None, **rest: Any) -> Delivery:
    """A delivery of booking.erased."""
    return ev("booking.erased", time, b=b, by=by, s=None, received=received, **rest)


def record(b: str, kind: str, data: dict[str, Any], number: int = 1) -> BookingRecord:
    """A record of the bookings topic; its key is the bookingId as given."""
    event = {
        "specversion": "1.0",
        "id": f"r{number}",
        "source": "/bookings",
        "type": kind,
        "time": text(at(number)),
        "data": {"bookingId": b, **data},
    }
    return BookingRecord(b, event)


def upsert(b: str = "b1", people: int = 2, **data: Any) -> BookingRecord:
    """A booking.upserted record."""
    return record(b, "booking.upserted", {"numberOfParticipants": people, **data})


def listed(*sessions: str | tuple[str, int | None, int | None]) -> list[dict[str, Any]]:
    """The `sessions` field: ids, or (id, start, end)."""
    entries: list[dict[str, Any]] = []
    for session in sessions:
        name, start, end = (session, None, None) if isinstance(session, str) else session
        times = {"startsAt": start, "endsAt": end}
        entries.append({"sessionId": name, **{key: text(when) for key, when in times.items() if when is not None}})
    return entries


def att(status: str, number: int, updated: int, *, by: str = KIOSK, b: str = "b1", s: str = "s1") -> dict[Pair, dict[str, Any]]:
    """The one attendance expected, `updated` at a whole millisecond; join several with `|`."""
    assert updated % MILLISECOND == 0
    return {
        (b, s): {
            "bookingId": b,
            "sessionId": s,
            "status": status,
            "numberOfAttendees": number,
            "updatedDate": text(updated)[:-4] + "Z",
            "source": by,
        }
    }


def missed(*sessions: str, b: str = "b1") -> list[Delivery]:
    """No-shows of one booking at these sessions, a minute apart."""
    return [ev("no_show", at(minute), b=b, s=session) for minute, session in enumerate(sessions)]
