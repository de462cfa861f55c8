"""Histories with few ids, sessions and instants, so that ties, copies, covered scans and horizons happen often."""

import unicodedata
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.oracle import BookingRecord, Delivery
from tests.support.oracle.make import MILLISECOND, MINUTE, at, ev, record, text

GUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
SESSION_GUID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
BOOKINGS = ("b1", GUID)
SESSIONS = ("s1", "S1", SESSION_GUID)
FOUR_SESSIONS = (*SESSIONS, "s9")
SOURCES = ("/devices/kiosk-1", "/devices/scanner-2")
IDS = ("1", "2", "3")
NUMBERS = (None, 0, 1, 2, 5)
PARTICIPANTS = ("p1", "p2", "P1", "ü4")
STATUSES = ("NOT_SET", "ATTENDED", "NOT_ATTENDED")
BASES = ("check_in", "no_show", "set", "cleared")
KINDS = (
    *BASES,
    "participant_scanned",
    *BASES,
    "participant_scanned",
    "participant_scanned",
    "deleted",
    "booking.erased",
)
MINUTES = (0, 1, 4, 6, 10, 11, 15, 130)
MICROS = (0, 0, 1, 999, 1000, 500_000)
TIMES = st.builds(at, st.sampled_from(MINUTES), st.sampled_from(MICROS))
STARTS = st.sampled_from([at(-60), at(0, 123_999), at(60), at(120), at(1440)])

#: Of booking records; nearly all are received before.
LATER = 3

Batch = list[Delivery] | list[BookingRecord]


class Happening(NamedTuple):
    """One event, before it is spelled and received; `data` without the ids."""

    kind: str
    time: int
    by: str
    id: str
    b: str
    s: str | None
    data: dict[str, Any]


class World(NamedTuple):
    """Deliveries and booking records, and one way they may arrive."""

    deliveries: list[Delivery]
    records: list[BookingRecord]
    batches: list[Batch]


@st.composite
def happenings(
    draw: st.DrawFn,
    kinds: tuple[str, ...] = KINDS,
    bookings: tuple[str, ...] = BOOKINGS,
    sessions: tuple[str, ...] = SESSIONS,
    times: st.SearchStrategy[int] = TIMES,
) -> Happening:
    """An event of one of the kinds."""
    kind = draw(st.sampled_from(kinds))
    data: dict[str, Any] = {}
    if kind in {"check_in", "set"}:
        data = {"n": draw(st.sampled_from(NUMBERS))}
    if kind == "set":
        data["status"] = draw(st.sampled_from(STATUSES))
    if kind == "participant_scanned":
        data = {"p": draw(st.sampled_from(PARTICIPANTS))}
    session = None if kind == "booking.erased" else draw(st.sampled_from(sessions))
    source, name = draw(st.sampled_from(SOURCES)), draw(st.sampled_from(IDS))
    return Happening(kind, draw(times), source, name, draw(st.sampled_from(bookings)), session, data)


SPELLINGS = st.sampled_from(
    [
        (east, tail, lower, digits)
        for east in (0, 0, 330, -480)
        for tail in ("", "", "9", "49999")
        for lower in (False, False, False, True)
        for digits in (0, 3, 6)
    ]
)


@st.composite
def spelled(draw: st.DrawFn, micros: int) -> str:
    """One of the ways to write an instant in RFC 3339: offsets, long or no fractions, lower case."""
    east, tail, lower, digits = draw(SPELLINGS)
    whole, fraction = text(micros + east * MINUTE)[:-1].split(".")
    if fraction == "000000" and not tail:
        fraction = fraction[:digits]
    body = f"{whole}.{fraction}{tail}" if fraction else whole
    zone = "Z" if east == 0 else f"{'+' if east > 0 else '-'}{abs(east) // 60:02d}:{abs(east) % 60:02d}"
    return (body + zone).lower() if lower else body + zone


def spelled_id(identifier: str) -> st.SearchStrategy[str]:
    """The spellings of an id that are the same after normalisation."""
    spellings = [identifier, identifier, f" {identifier}", f"{identifier}  ", f"\ufeff{identifier}\u200b"]
    spellings.append(unicodedata.normalize("NFD", identifier))
    if identifier in {GUID, SESSION_GUID}:
        spellings += [one.upper() for one in spellings]
    return st.sampled_from(spellings)


@st.composite
def receipts(draw: st.DrawFn, time: int) -> int:
    """When an event of this time was received: a whole millisecond, often more than the tolerance before it."""
    if draw(st.booleans()):
        return at(draw(st.sampled_from([0, 1, 10])))
    whole = time // MILLISECOND * MILLISECOND
    return whole + draw(st.sampled_from([0, 0, 7 * MINUTE, -5 * MINUTE, -5 * MINUTE - MILLISECOND, -360 * MINUTE]))


@st.composite
def delivered(draw: st.DrawFn, what: Happening, *, prompt: bool = False) -> Delivery:
    """A copy of the event in some spelling, received some time; when it happened, if prompt."""
    data = dict(what.data)
    if data.get("n", 0) is None and draw(st.booleans()):
        del data["n"]
    if "p" in data:
        data["p"] = draw(spelled_id(data["p"]))
    data.update(draw(st.sampled_from([{}, {}, {"note": {"ignored": [1]}}])))
    return ev(
        what.kind,
        draw(spelled(what.time)),
        by=what.by,
        id=what.id,
        b=draw(spelled_id(what.b)),
        s=None if what.s is None else draw(spelled_id(what.s)),
        received=what.time if prompt else draw(receipts(what.time)),
        **data,
    )


@st.composite
def histories(
    draw: st.DrawFn, of: st.SearchStrategy[Happening] | None = None, *, least: int = 1, most: int = 7
) -> list[Delivery]:
    """Deliveries of some events, each of them once to three times."""
    found = draw(st.lists(of if of is not None else focused_or_wide(), min_size=least, max_size=most))
    copies = [(one, draw(st.sampled_from([1, 1, 2, 3]))) for one in found]
    return [draw(delivered(one)) for one, times in copies for _ in range(times)]


def sized(number: int) -> settings:
    """Settings of a property with so many examples (see `examples`), on machines of any speed."""
    return settings(max_examples=examples(number), deadline=None, suppress_health_check=[HealthCheck.too_slow])


def focused_or_wide() -> st.SearchStrategy[Happening]:
    """Events of one attendance more often than events of several."""
    narrow = happenings(bookings=("b1",), sessions=("s1",))
    return st.one_of(narrow, narrow, happenings())


@st.composite
def prompt(draw: st.DrawFn, of: st.SearchStrategy[Happening], *, least: int = 0, most: int = 4) -> list[Delivery]:
    """Deliveries of some events, each received when it happened."""
    return [draw(delivered(one, prompt=True)) for one in draw(st.lists(of, min_size=least, max_size=most))]


@st.composite
def booking_records(
    draw: st.DrawFn, bookings: tuple[str, ...] = BOOKINGS, sessions: tuple[str, ...] = SESSIONS
) -> BookingRecord:
    """A record of the bookings topic, most often an upsert."""
    booking = draw(st.sampled_from(bookings))
    kind = draw(st.sampled_from(["booking.upserted"] * 5 + ["booking.deleted", "null"]))
    received = draw(st.sampled_from([0, 0, 1, LATER - 1]))
    if kind == "null":
        return BookingRecord(booking, None, received)
    data = draw(booking_data(sessions)) if kind == "booking.upserted" else {}
    written = record(draw(spelled_id(booking)), kind, data, draw(st.integers(0, 3)))
    return BookingRecord(booking, written.event, received)


@st.composite
def booking_data(draw: st.DrawFn, sessions: tuple[str, ...] = SESSIONS) -> dict[str, Any]:
    """The data of a booking.upserted, optional fields there or left out."""
    data: dict[str, Any] = {"numberOfParticipants": draw(st.sampled_from([1, 2, 4]))}
    optional = {
        "walkInsAllowed": st.booleans(),
        "status": st.sampled_from(["CONFIRMED", "CONFIRMED", "CANCELED"]),
        "serviceType": st.sampled_from(["APPOINTMENT", "CLASS", "COURSE"]),
        "sessions": st.one_of(st.none(), *[st.lists(entries(sessions), max_size=4)] * 3),
    }
    for field, values in optional.items():
        if field == "sessions" or draw(st.booleans()):
            data[field] = draw(values)
    if data["sessions"] is None and draw(st.booleans()):
        del data["sessions"]
    return data


@st.composite
def entries(draw: st.DrawFn, sessions: tuple[str, ...] = SESSIONS) -> dict[str, Any]:
    """One entry of `sessions`."""
    entry = {"sessionId": draw(spelled_id(draw(st.sampled_from(sessions))))}
    start = draw(STARTS)
    if draw(st.sampled_from([True, True, False])):
        entry["startsAt"] = draw(spelled(start))
    if draw(st.booleans()):
        entry["endsAt"] = draw(spelled(start + draw(st.sampled_from([30, 90])) * MINUTE))
    return entry


def filled(*batches: Batch) -> list[Batch]:
    """The batches without the empty ones."""
    return [batch for batch in batches if batch]


@st.composite
def splits(draw: st.DrawFn, items: list[Any]) -> list[list[Any]]:
    """The items in the same order, cut into batches."""
    batches: list[list[Any]] = []
    for item in items:
        joined: bool = draw(st.booleans())
        if joined and batches:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


@st.composite
def arrivals(draw: st.DrawFn, items: list[Any]) -> list[list[Any]]:
    """The items in any order, cut into batches."""
    return draw(splits(draw(st.permutations(items))))


@st.composite
def interleavings(draw: st.DrawFn, deliveries: list[Delivery], records: list[BookingRecord]) -> list[Batch]:
    """Batches of both, the records of each booking in their order."""
    queues: dict[str, list[BookingRecord]] = {}
    for one in records:
        queues.setdefault(one.key, []).append(one)
    turns: list[Delivery | str] = [*deliveries, *(one.key for one in records)]
    batches: list[list[Any]] = []
    for turn in draw(st.permutations(turns)):
        item = queues[turn].pop(0) if isinstance(turn, str) else turn
        joined: bool = draw(st.booleans())
        if joined and batches and isinstance(batches[-1][0], type(item)):
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


@st.composite
def worlds(
    draw: st.DrawFn,
    of: st.SearchStrategy[Happening],
    records: st.SearchStrategy[BookingRecord],
    *,
    always: tuple[Delivery | BookingRecord, ...] = (),
) -> World:
    """A few deliveries and records with those that are always there, interleaved."""
    deliveries = [*(one for one in always if isinstance(one, Delivery)), *draw(histories(of, least=0, most=6))]
    given = [*draw(st.lists(records, max_size=4)), *(one for one in always if isinstance(one, BookingRecord))]
    return World(deliveries, given, draw(interleavings(deliveries, given)))
