"""The product as the property tests see it: decode, fold, judge and project, without Kafka and Redis.

Events go in as bytes and come out as what the read models and the alerts topic would be sent; tallies are added up from
the pairs here, as ``apply.lua`` does in Redis (which the integration tests compare with the same oracle).
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from schemas.attendance import AttendanceStatus
from schemas.decode import decode, decode_booking
from schemas.events import DeadLetter, Event
from schemas.times import format_time
from tests.oracle import BookingRecord, Delivery, Outcome, Rules
from worker.domain import mismatch
from worker.domain.fold import EMPTY, NEVER, Row
from worker.domain.rows import load, merge_attendance_rows, stored
from worker.domain.state import BookingState, Draft, Reference, Session, apply
from worker.read_model.documents import PairDocument, pack, unpack
from worker.stream import project

Batch = Sequence[Delivery] | Sequence[BookingRecord]
State = dict[str, tuple[int, dict[str, tuple[Row, dict[bytes, bytes]]]]]

_MAX_AGE = 365 * 86400 * 1_000_000


def outcome(batches: Sequence[Batch], rules: Rules = Rules()) -> Outcome:
    """What readers see after these batches."""
    pairs: dict[bytes, PairDocument] = {}
    summaries: dict[str, dict[str, Any]] = {}
    alerts: dict[str, dict[str, Any]] = {}
    for draft in _drafts(batches, rules):
        update = project.effects(draft).update
        if update is None:
            continue
        for identity, document in update.pairs:
            _put(pairs, identity, document)
        if update.has_summary:
            _put(summaries, update.booking_id, update.summary)
        for change in update.alerts:
            _put(alerts, change.alert_id, json.loads(change.json) if change.json else None)
    found = [unpack(identity, pack(document)) for identity, document in pairs.items()]
    return Outcome(
        {(each["bookingId"], each["sessionId"]): _without_id(each) for each in found if each is not None},
        _tallies(pairs.values()),
        {name: {k: v for k, v in summary.items() if k != "bookingId"} for name, summary in summaries.items()},
        {
            (alert["kind"], alert["bookingId"], alert.get("sessionId")): {
                "openedAt": alert["openedAt"],
                "attendance": alert["attendance"] and _without_id(alert["attendance"]),
            }
            for alert in alerts.values()
        },
    )


def published(batches: Sequence[Batch], rules: Rules = Rules()) -> list[dict[str, Any]]:
    """Alert CloudEvents in the order in which they are published."""
    return [json.loads(json.dumps(event)) for draft in _drafts(batches, rules) for event in project.effects(draft).published]


def state(deliveries: Sequence[Delivery]) -> State:
    """The rows that one batch of deliveries folds into."""
    held: dict[str, BookingState] = {}
    for draft in _apply_all(held, [(0, event) for event in map(_event, deliveries)], [], _rules(Rules())):
        draft.install()
    return _visible(held.values())


def merge(one: State, other: State) -> State:
    """The rows of both, merged as a recovery merges them."""
    merged: dict[str, dict[bytes, bytes]] = defaultdict(dict)
    for part in (one, other):
        for booking_id, suffix, value in _rows(part):
            old = merged[booking_id].get(suffix)
            merged[booking_id][suffix] = value if old is None else merge_attendance_rows(suffix, old, value)
    return _loaded(merged)


def decode_encode(given: State) -> State:
    """A state after a round trip through its stored bytes."""
    rows: dict[str, dict[bytes, bytes]] = defaultdict(dict)
    for booking_id, suffix, value in _rows(given):
        rows[booking_id][suffix] = value
    return _loaded(rows)


def _drafts(batches: Sequence[Batch], rules: Rules) -> Iterator[Draft]:
    """Each batch's drafts, installed after they were looked at."""
    held: dict[str, BookingState] = {}
    offset = 0
    for batch in batches:
        events: list[tuple[int, Event]] = []
        references: list[Reference] = []
        for offset, record in enumerate(batch, offset + 1):  # noqa: B020 - offsets go on over batches
            if isinstance(record, Delivery):
                events.append((offset, _event(record)))
            else:
                references.append((offset, _reference(record)))
        for draft in _apply_all(held, events, references, _rules(rules)):
            yield draft
            draft.install()


def _apply_all(
    held: dict[str, BookingState],
    events: Sequence[tuple[int, Event]],
    references: Sequence[Reference],
    rules: mismatch.Rules,
) -> list[Draft]:
    by_booking: dict[str, tuple[list[tuple[int, Event]], list[Reference]]] = {}
    for offset, event in events:
        by_booking.setdefault(event.booking_id, ([], []))[0].append((offset, event))
    for offset, said in references:
        by_booking.setdefault(said.booking_id, ([], []))[1].append((offset, said))
    return [apply(held.setdefault(name, BookingState(name)), *both, rules) for name, both in by_booking.items()]


def _event(delivery: Delivery) -> Event:
    # the header, because a record's timestamp has only milliseconds
    header = format_time(delivery.received)[:-4] + f"{delivery.received % 1_000_000:06d}Z"
    headers = [("attendance-received", header.encode())]
    value = json.dumps(delivery.event).encode()
    decoded = decode(value, headers, delivery.received // 1000 + 1, max_age=_MAX_AGE)
    assert not isinstance(decoded, DeadLetter), decoded
    return decoded


def _reference(record: BookingRecord) -> Any:
    value = None if record.event is None else json.dumps(record.event).encode()
    decoded = decode_booking(value, (), record.key.encode())
    assert not isinstance(decoded, DeadLetter), decoded
    return decoded


def _rules(rules: Rules) -> mismatch.Rules:
    return mismatch.Rules(rules.clock_tolerance, rules.conflict_window, _MAX_AGE)


def _put(held: dict[Any, Any], key: Any, value: Any) -> None:
    if value is None:
        held.pop(key, None)
    else:
        held[key] = value


def _without_id(attendance: Any) -> dict[str, Any]:
    return {name: value for name, value in attendance.items() if name != "id"}


def _tallies(pairs: Iterable[PairDocument]) -> dict[str, dict[str, Any]]:
    tallies: dict[str, dict[str, Any]] = {}
    windows: dict[str, list[tuple[int | None, int | None]]] = defaultdict(list)
    names = {"ATTENDED": "attended", "NOT_ATTENDED": "notAttended", "NOT_SET": "notSet"}
    zero = dict.fromkeys(("bookings", *names.values(), "attendees", "expectedParticipants"), 0)
    for each in pairs:
        tally = tallies.setdefault(each.session_id, dict(zero))
        status, number = each.attendance[:2] if each.attendance else (AttendanceStatus.NOT_SET, 0)
        tally["bookings"] += 1
        tally[names[status]] += 1
        tally["attendees"] += number if status == AttendanceStatus.ATTENDED else 0
        tally["expectedParticipants"] += each.expected
        windows[each.session_id] += [each.window] if each.window else []
    for name, tally in tallies.items():
        starts = [window[0] for window in windows[name] if window[0] is not None]
        ends = [window[1] for window in windows[name] if window[1] is not None]
        tally["startsAt"] = format_time(min(starts)) if starts else None
        tally["endsAt"] = format_time(max(ends)) if ends else None
    return tallies


def _visible(states: Iterable[BookingState]) -> State:
    """Without what an empty set of events would leave."""
    found: State = {}
    for each in states:
        sessions = {
            name: (session.row, session.scans)
            for name, session in each.sessions.items()
            if session.row != EMPTY or session.scans
        }
        if sessions or each.floor > NEVER:
            found[each.booking_id] = (each.floor, sessions)
    return found


def _rows(given: State) -> Iterator[tuple[str, bytes, bytes]]:
    for booking_id, (floor, sessions) in given.items():
        held = BookingState(booking_id, floor)
        held.sessions = {name: Session(row, scans) for name, (row, scans) in sessions.items()}
        for suffix, value in stored(held):
            yield booking_id, suffix, value


def _loaded(rows: dict[str, dict[bytes, bytes]]) -> State:
    return _visible(load(name, each, None, _rules(Rules())) for name, each in rows.items())
