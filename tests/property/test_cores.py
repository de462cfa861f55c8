"""Both cores give the same bytes: rows, pairs, summaries, alerts, dead letters, whatever records come, and however often."""

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.cores import Tables
from tests.support.examples import examples
from tests.support.incoming import DATA, GUID, MAX_AGE, RECEIVED_MS, Polled, document, raw
from tests.support.odd_records import HEADERS, ODD, TORN, USUAL, as_arrays, booking_documents, documents, nested, torn
from worker.domain.alert_rules import Rules
from worker.domain.rows import BOOKINGS, EVENTS
from worker.stream.decode_batch import Contents

RULES = Rules(5_000_000, 10_000_000, MAX_AGE)
NAMES = ("b", "B", 'b"1\\', "bé", "b\u0301", " b ", "88214716-ABCD-4EF0-9012-3456789ABCDE", "漢")
SESSIONS = (*[f"s{number}" for number in range(12)], "é", 's"', "88214716-abcd-4ef0-9012-3456789abcdf")
TIMES = tuple(f"2026-11-22T10:00:{second:02}.{milli:03}Z" for second in range(0, 60, 7) for milli in (0, 1))
MINUTES = ("2026-11-21T23:59:59Z", "2026-11-22T09:41:30Z", "2026-11-22T09:59:00Z", "2026-11-22T09:59:59.999Z", *TIMES[:2])


@st.composite
def valid_events(draw: st.DrawFn) -> Polled:
    """Events of few bookings and sessions at few moments, so that they meet: ties, copies, conflicts, many sessions."""
    kind = draw(st.sampled_from(list(DATA)))
    data = {"bookingId": draw(st.sampled_from(NAMES)), "sessionId": draw(st.sampled_from(SESSIONS))}
    if kind == "attendance.set":
        data["status"] = draw(st.sampled_from(["ATTENDED", "NOT_ATTENDED", "NOT_SET"]))
    if kind == "attendance.participant_scanned":
        data["participantId"] = draw(st.sampled_from(["p1", "p2", "é", "P1"]))
    if draw(st.booleans()):
        data["numberOfAttendees"] = draw(st.sampled_from([None, 0, 1, 2, 100_000]))
    whole = {
        **document(kind, **data),
        "time": draw(st.sampled_from(TIMES)),
        "source": draw(st.sampled_from(["/kiosk", "/gate", "/gäte"])),
        "id": draw(st.sampled_from(["1", "2"])),
    }
    received = RECEIVED_MS + draw(st.sampled_from([0, -4_000, -6_000, 60_000]))
    return Polled(
        raw(whole), draw(st.sampled_from([[], [], [("attendance-backfill", b"op-1")], [("traceparent", b"00-1")]])), received
    )


@st.composite
def valid_bookings(draw: st.DrawFn) -> Polled:
    """Booking records of the same bookings."""
    data: dict[str, Any] = {"bookingId": draw(st.sampled_from(NAMES)), "numberOfParticipants": draw(st.integers(1, 3))}
    if draw(st.booleans()):
        listed = draw(st.lists(st.sampled_from(SESSIONS), max_size=5))
        starts = st.sampled_from([None, "2026-11-22T10:00:00Z", "2026-11-23T10:00:00.123456Z"])
        data["sessions"] = [{"sessionId": name, "startsAt": draw(starts), "endsAt": draw(starts)} for name in listed]
    if draw(st.booleans()):
        data |= {"status": draw(st.sampled_from(["CANCELED", "CONFIRMED"])), "walkInsAllowed": draw(st.booleans())}
    kind = draw(st.sampled_from([*["booking.upserted"] * 3, "booking.deleted"]))
    whole = {**document(kind), "data": data if kind == "booking.upserted" else {"bookingId": data["bookingId"]}}
    return Polled(raw(whole), [], RECEIVED_MS + draw(st.integers(0, 3)))


@st.composite
def crowds(draw: st.DrawFn) -> list[Polled]:
    """Events of many sessions of one booking, so many that it becomes large, or no longer is."""
    kind, first = draw(st.sampled_from(["check_in", "no_show", "deleted"])), draw(st.integers(0, 70))
    time = draw(st.sampled_from(TIMES))
    return [
        Polled(raw({**document(f"attendance.{kind}", bookingId="b", sessionId=f"t{number}"), "time": time}), [], RECEIVED_MS)
        for number in range(first, draw(st.one_of(st.integers(first, first + 5), st.integers(first, 80))))
    ]


@st.composite
def moves(draw: st.DrawFn) -> list[Polled]:
    """Reports of one attendance that say the same at other times: only its arrival moves."""
    times = draw(st.lists(st.sampled_from(MINUTES), min_size=1, max_size=3))
    return [Polled(raw({**document(bookingId="b", sessionId="s0"), "time": time}), [], RECEIVED_MS) for time in times]


EVENTS_OR_TORN = st.one_of(valid_events(), valid_events(), valid_events(), TORN)
FEW_EVENTS = st.lists(EVENTS_OR_TORN, max_size=8)
EVENT_BATCHES = st.tuples(st.just(EVENTS), st.one_of(FEW_EVENTS, FEW_EVENTS, FEW_EVENTS, crowds()))
BOOKING_BATCHES = st.tuples(st.just(BOOKINGS), st.lists(st.one_of(valid_bookings(), valid_bookings(), TORN), max_size=3))
MOVES = st.lists(st.tuples(st.just(EVENTS), moves()), min_size=2, max_size=4)
ANY = st.lists(st.one_of(EVENT_BATCHES, EVENT_BATCHES, BOOKING_BATCHES), max_size=6)
BATCHES = st.one_of(ANY, ANY, ANY, MOVES)


@settings(max_examples=examples(300))
@given(batches=BATCHES, seed=st.integers(), partitions=st.sampled_from([1, 1, 2]))
def test_both_cores_give_the_same_bytes(batches: list[tuple[int, list[Polled]]], seed: int, partitions: int) -> None:
    _fold_all(batches, Random(seed), partitions)


@pytest.mark.parametrize("seed", range(8))
def test_records_that_were_published_again_beside_live_ones(seed: int) -> None:
    """Of bookings that are in memory, and of others."""
    batches = []
    for time in MINUTES:
        value = raw({**document(bookingId="b", sessionId="s0"), "time": time})
        again = Polled(value, [("attendance-backfill", b"op-1")], RECEIVED_MS)
        batches += [(EVENTS, [Polled(value, [], RECEIVED_MS)]), (EVENTS, [Polled(value, [], RECEIVED_MS), again])]
        batches.append((EVENTS, [again]))
    Random(seed).shuffle(batches)
    _fold_all(batches, Random(seed), 1)


@pytest.mark.slow
@settings(max_examples=20_000)
@given(batches=BATCHES, seed=st.integers(), partitions=st.sampled_from([1, 2]))
def test_both_cores_give_the_same_bytes_of_very_many(
    batches: list[tuple[int, list[Polled]]], seed: int, partitions: int
) -> None:
    _fold_all(batches, Random(seed), partitions)


def _fold_all(batches: list[tuple[int, list[Polled]]], chance: Random, partitions: int) -> None:
    """Folds batches as a worker may: redelivered, with read models that it knows or not, and bookings that it forgets."""
    tables, offset = Tables(RULES, partitions=partitions, cached_bookings=chance.choice([0, 1, 1_000])), 0
    for topic, polled in batches:
        keys = [_key_of(record) for record in polled]
        records = [
            SimpleNamespace(**record._asdict(), key=key, offset=offset + number)
            for number, (record, key) in enumerate(zip(polled, keys, strict=True))
        ]
        offset += len(records)
        tables.fold(
            topic,
            records,
            is_redelivery=chance.random() < 0.2,
            known=chance.random() < 0.7,
            projected_offset=chance.randint(0, offset),
        )
        names = [name for name in {*tables.rows, *tables.references} if chance.random() < 0.3]
        tables.core.forget(sorted(names))


def _key_of(record: Polled) -> bytes:
    """The normalised id of most records, so that they count; any key for others."""
    for name in NAMES:
        if record.value and name.encode() in record.value:
            return name.strip().lower().encode() if len(name) > 30 else name.strip().encode()
    return b"b"


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("at", [0, 70])
def test_one_odd_record_leaves_the_others_alone(odd: Polled, at: int) -> None:
    polled = USUAL * 12
    polled.insert(at, odd)
    records = [SimpleNamespace(**each._asdict(), key=b"b", offset=number) for number, each in enumerate(polled)]
    contents, _ = Tables(RULES).fold(EVENTS, records)
    assert sum(contents.folded.values()) + len(contents.dead_letters) == len(polled)
    assert sum(contents.folded.values()) >= len(polled) - 1


def _records(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[Polled]]:
    return st.lists(st.builds(Polled, values, HEADERS, st.just(RECEIVED_MS)), max_size=4)


def _decode(topic: int, polled: list[Polled], key: bytes = b"b") -> Contents:
    records = [SimpleNamespace(**each._asdict(), key=key, offset=number) for number, each in enumerate(polled)]
    contents, _ = Tables(RULES, partitions=2 if topic == EVENTS else 1).fold(topic, records)
    return contents


@settings(max_examples=examples(500))
@given(_records(st.one_of(torn(), documents().map(raw), as_arrays(documents()).map(raw))))
def test_both_cores_decode_the_same(polled: list[Polled]) -> None:
    _decode(EVENTS, polled)


@settings(max_examples=examples(500))
@given(
    _records(st.one_of(torn(booking_documents()), booking_documents().map(raw), as_arrays(booking_documents()).map(raw))),
    st.sampled_from([b"b1", GUID.lower().encode()]),
)
@example([Polled(raw(document("booking.upserted", status={"CANCELED": None})), [], RECEIVED_MS)], b"b1")
@example([Polled(raw(document("booking.upserted", sessions=[["s1", None, None]])), [], RECEIVED_MS)], b"b1")
@example([Polled(value, [], RECEIVED_MS) for depth in (500, 501, 10_000) for value in nested("booking.upserted", depth)], b"b1")
def test_both_cores_decode_the_same_bookings(polled: list[Polled], key: bytes) -> None:
    _decode(BOOKINGS, polled, key)
