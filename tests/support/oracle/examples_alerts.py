"""Hand-worked examples for the mismatch alerts: each kind raised, and each condition of it missing."""

from typing import Any

from tests.support.oracle.make import SCANNER, Example, Key, at, erased, ev, listed, missed, record, scan, upsert
from tests.support.oracle.shapes import BookingRecord, Delivery, Rules


def case(
    name: str,
    deliveries: list[Delivery],
    *kinds: str,
    bookings: list[BookingRecord] | None = None,
    rules: Rules = Rules(),
) -> Example:
    """An example of which alerts are open for (b1, s1), or b1 where the kind is of bookings, and no others."""
    keys: set[Key] = {(kind, "b1", None if kind == "FREQUENT_NO_SHOWS" else "s1") for kind in kinds}
    return Example(name, deliveries, bookings or [], alerts=keys, rules=rules)


COUNT = "STATUS_COUNT_MISMATCH"
COUNTS = [
    case("NOT_ATTENDED with a number", [ev("set", at(0), status="NOT_ATTENDED", n=1)], COUNT),
    case("NOT_SET with a number", [ev("set", at(0), status="NOT_SET", n=1)], COUNT),
    case("ATTENDED with 0", [ev("check_in", at(0), n=0)], COUNT),
    case("set to ATTENDED with 0", [ev("set", at(0), status="ATTENDED", n=0)], COUNT),
    case("NOT_ATTENDED without a number", [ev("set", at(0), status="NOT_ATTENDED")]),
    case("NOT_SET with 0", [ev("set", at(0), status="NOT_SET", n=0)]),
    case("ATTENDED with 1", [ev("check_in", at(0), n=1)]),
    case("a scan settles a contradiction", [ev("set", at(0), status="NOT_SET", n=1), scan("p1", at(1))]),
    case("a newer base settles it", [ev("check_in", at(0), n=0), ev("check_in", at(1))]),
    case("an erased contradiction", [ev("check_in", at(0), n=0), erased(at(1))]),
]

EXCEEDED = "PARTICIPANTS_EXCEEDED"
THREE = [ev("check_in", at(0), n=3)]
PARTICIPANTS = [
    case("more than the booking is for", THREE, EXCEEDED, bookings=[upsert(people=2)]),
    case("as many as the booking is for", THREE, bookings=[upsert(people=3)]),
    case("walk-ins are allowed", THREE, bookings=[upsert(people=2, walkInsAllowed=True)]),
    case("walk-ins are not allowed", THREE, EXCEEDED, bookings=[upsert(people=2, walkInsAllowed=False)]),
    case("nothing is known of the booking", THREE),
    case("another booking's record", THREE, bookings=[upsert("b2", people=2)]),
    case("the booking was deleted", THREE, bookings=[upsert(people=2), record("b1", "booking.deleted", {})]),
    case("the booking's record is null", THREE, bookings=[upsert(people=2), BookingRecord("b1", None)]),
    case("the booking is back", THREE, EXCEEDED, bookings=[BookingRecord("b1", None), upsert(people=2)]),
    case("the last record holds", THREE, bookings=[upsert(people=2), upsert(people=5)]),
    case("the last record holds, smaller", THREE, EXCEEDED, bookings=[upsert(people=5), upsert(people=2)]),
    case("too many scans", [scan(p, at(0)) for p in ("p1", "p2", "p3")], EXCEEDED, bookings=[upsert(people=2)]),
    case("a repeated scan", [scan(p, at(m)) for m, p in enumerate(("p1", "p2", "p1"))], bookings=[upsert(people=2)]),
    case(
        "a contradicting number exceeds too",
        [ev("set", at(0), status="NOT_ATTENDED", n=3)],
        EXCEEDED,
        COUNT,
        bookings=[upsert(people=2)],
    ),
]

CANCELED = "BOOKING_CANCELED"
CAME, MISSED = [ev("check_in", at(0))], [ev("no_show", at(0))]
CANCELATIONS = [
    case("came to a canceled booking", CAME, CANCELED, bookings=[upsert(status="CANCELED")]),
    case("missed a canceled booking", MISSED, bookings=[upsert(status="CANCELED")]),
    case("came to a confirmed booking", CAME, bookings=[upsert(status="CONFIRMED")]),
    case("came to a booking without status", CAME, bookings=[upsert()]),
    case("the cancelation was taken back", CAME, bookings=[upsert(status="CANCELED"), upsert(status="CONFIRMED")]),
    case("the canceled booking was deleted", CAME, bookings=[upsert(status="CANCELED"), BookingRecord("b1", None)]),
]

UNKNOWN = "UNKNOWN_SESSION"
SESSIONS = [
    case("none of the sessions listed", CAME, UNKNOWN, bookings=[upsert(sessions=listed("s2", "s3"))]),
    case("an empty list", CAME, UNKNOWN, bookings=[upsert(sessions=[])]),
    case("one of the sessions listed", CAME, bookings=[upsert(sessions=listed("s2", "s1"))]),
    case("listed in another spelling", CAME, bookings=[upsert(sessions=listed(" s1 "))]),
    case("sessions are not listed", CAME, bookings=[upsert()]),
    case("sessions are null", CAME, bookings=[upsert(sessions=None)]),
    case("a no-show at an unknown session", MISSED, UNKNOWN, bookings=[upsert(sessions=listed("S1"))]),
    case(
        "a canceled booking lists its sessions too",
        CAME,
        UNKNOWN,
        CANCELED,
        bookings=[upsert(status="CANCELED", sessions=[])],
    ),
]

CONFLICT = "CONFLICTING_REPORTS"
NO = ev("no_show", at(0))


def after(kind: str, minutes: float, micros: int = 0, **data: Any) -> Delivery:
    """A report by the other device."""
    return ev(kind, at(minutes, micros), by=SCANNER, **data)


CONFLICTS = [
    case("a no-show and a check-in by two devices", [NO, after("check_in", 3)], CONFLICT),
    case("a no-show and a scan by two devices", [NO, after("participant_scanned", 3, p="p1")], CONFLICT),
    case("the check-in came first", [ev("check_in", at(0)), after("no_show", 3)], CONFLICT),
    case("by one device", [NO, ev("check_in", at(3))]),
    case("just in the window", [NO, after("check_in", 10)], CONFLICT),
    case("just out of the window", [NO, after("check_in", 10, 1)]),
    case("just out of the window, the other way", [ev("check_in", at(0)), after("no_show", 10, 1)]),
    case("a smaller window", [NO, after("check_in", 1)], rules=Rules(conflict_window=59_999_999)),
    case("a set is no report", [NO, after("set", 3, status="ATTENDED")]),
    case("a set between them settles the older", [NO, after("set", 1, status="NOT_SET"), after("check_in", 2)]),
    case("cleared between them settles the older", [NO, after("cleared", 1), after("check_in", 2)]),
    case("an older set settles neither", [after("cleared", -1), NO, after("check_in", 2)], CONFLICT),
    case("a newer set settles both", [NO, after("check_in", 2), after("set", 3, status="ATTENDED", n=1)]),
    case("the newest reports: agreement by the same device", [NO, after("check_in", 1), ev("check_in", at(2))]),
    case("the newest reports: out of the window", [NO, after("check_in", 1), after("check_in", 11)]),
    case("the newest reports: a later no-show by the scanner", [NO, after("check_in", 1), after("no_show", 2)]),
    case(
        "a scan covered by the no-show is a report all the same",
        [scan("p1", at(0)), ev("no_show", at(1))],
        CONFLICT,
    ),
    case("a report at the horizon does not count", [NO, ev("deleted", at(0)), after("check_in", 1)]),
    case(
        "effective times count, in",
        [ev("no_show", at(60), received=at(0)), after("check_in", 15)],
        CONFLICT,
        rules=Rules(),
    ),
    case(
        "a check-in at the horizon does not count",
        [ev("check_in", at(0)), ev("deleted", at(0)), after("no_show", 1)],
    ),
    case(
        "newer than the set by time, at the same effective time",
        [after("set", 60, status="NOT_SET")._replace(received=at(0)), ev("no_show", at(61), received=at(0))]
        + [after("check_in", 6)],
        CONFLICT,
    ),
    case("effective times count, out", [ev("no_show", at(16), received=at(0)), after("check_in", 16)]),
]

AHEAD = "CLOCK_AHEAD"
CLOCKS = [
    case("the newest event's clock ran ahead", [ev("check_in", at(5, 1), received=at(0))], AHEAD),
    case("the clock ran ahead within the tolerance", [ev("check_in", at(5), received=at(0))]),
    case("no tolerance", [ev("check_in", at(0, 1000), received=at(0))], AHEAD, rules=Rules(clock_tolerance=0)),
    case("a larger tolerance", [ev("check_in", at(60), received=at(0))], rules=Rules(clock_tolerance=3_600_000_000)),
    case("an older event's clock ran ahead", [ev("check_in", at(60), received=at(0)), ev("check_in", at(6))]),
    case("a scan's clock ran ahead", [ev("check_in", at(1)), scan("p1", at(60), received=at(0))], AHEAD),
    case("a copy was received when its time had come", [ev("check_in", at(60), received=at(m)) for m in (0, 55)]),
    case("a copy was received before its time had come", [ev("check_in", at(60), received=at(m)) for m in (0, 54)], AHEAD),
    case("a deletion's clock ran ahead", [ev("check_in", at(0)), ev("deleted", at(60), received=at(0))]),
]

FREQUENT = "FREQUENT_NO_SHOWS"
FREQUENTS = [
    case("three of three missed", missed("s1", "s2", "s3"), FREQUENT),
    case("two of two missed", missed("s1", "s2")),
    case("three of five missed", [*missed("s1", "s2", "s3"), *(ev("check_in", at(0), s=s) for s in "xy")], FREQUENT),
    case("three of six missed", [*missed("s1", "s2", "s3"), *(ev("check_in", at(0), s=s) for s in "xyz")]),
    case(
        "NOT_SET does not count",
        [*missed("s1", "s2", "s3"), *(ev("cleared", at(0), s=s) for s in "uvwxyz")],
        FREQUENT,
    ),
    case("of two bookings", [*missed("s1", "s2"), *missed("s3", b="b2")]),
    case("listed sessions do not count", missed("s1", "s2"), bookings=[upsert(sessions=listed("s1", "s2", "s3"))]),
    case("one was deleted", [*missed("s1", "s2", "s3"), ev("deleted", at(9), s="s2")]),
    case("a canceled booking", missed("s1", "s2", "s3"), FREQUENT, bookings=[upsert(status="CANCELED")]),
]

ALERTS = [
    *((COUNT, one) for one in COUNTS),
    *((EXCEEDED, one) for one in PARTICIPANTS),
    *((CANCELED, one) for one in CANCELATIONS),
    *((UNKNOWN, one) for one in SESSIONS),
    *((CONFLICT, one) for one in CONFLICTS),
    *((AHEAD, one) for one in CLOCKS),
    *((FREQUENT, one) for one in FREQUENTS),
]
