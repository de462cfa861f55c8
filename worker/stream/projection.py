"""From what a batch made of a booking to what readers and the alerts topic get of it. Pure."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import orjson

from schemas.alerts import AlertData, AlertEvent, AlertKind
from schemas.attendance import attendance_id
from schemas.events import Booking
from schemas.times import parse_time
from worker.domain import alert_events
from worker.domain.alert_events import Judged
from worker.domain.alert_rules import BITS, FREQUENT, kinds
from worker.domain.booking_state import BookingState, Change, Touched, listed_by
from worker.domain.row_codec import ever_of, newest_key, newest_of, see, source_of
from worker.domain.summaries import Summary, alike, listing
from worker.read_model.documents import contribution, pack
from worker.read_model.writer import AlertChange, Write, pack_summary


def project(changes: Sequence[Change], write: Write, published: list[AlertEvent], *, known: bool) -> None:
    """Adds what changed, or is to be said again, to the write and to the alerts to publish.

    Args:
        changes: of one batch, each of another booking.
        known: whether Redis holds just what the states were before the batch; else it is asked what it holds.
    """
    for change in changes:
        _pairs(change, write, known)
    _alerts(changes, write, published)
    for change in changes:
        if change.again or change.state.summary != change.was.summary:
            had_rate = change.again or not known or _has_rate(change.was.summary)
            write.summary(change.state.booking_id, _summary(change.state.summary, had_rate))


def whole(state: BookingState, write: Write) -> None:
    """Adds all that readers see of a booking, for a repair."""
    for name in state.rows.keys() | listed_by(state.booking).keys():
        says = state.says(name)
        contributed = _contribution(name, says, state.booking)
        if contributed:
            document = _document(state.booking_id, name, contributed, state.rows[name] if says else b"")
            write.pair(attendance_id(state.booking_id, name), document, contributed, b"")
    for name, mask in state.masks.items():
        judged = state.judged_session(name)
        write.alerts += (_open(alert_events.open_alert(kind, judged)) for kind in kinds(mask))
    if state.frequent:
        write.alerts.append(_open(alert_events.open_alert(FREQUENT, state.judged())))
    if state.summary is not None:
        write.summary(state.booking_id, _summary(state.summary, False))


def said(state: BookingState, kind: AlertKind, session_id: str | None) -> AlertEvent | None:
    """What the alerts topic should say last of an alert; None where it was never open."""
    if session_id is None:
        is_open, ever, judged = state.frequent, state.ever_frequent, state.judged()
    elif session_id in state.rows:
        is_open, ever = (bool(mask & BITS[kind]) for mask in (state.masks.get(session_id, 0), ever_of(state.rows[session_id])))
        judged = state.judged_session(session_id)
    else:
        return None
    if is_open:
        return alert_events.opened(alert_events.open_alert(kind, judged), judged)
    return alert_events.resolved(kind, judged) if ever else None


def _pairs(change: Change, write: Write, known: bool) -> None:
    again, all_of_it = change.again, change.again or change.whole
    for touched in change.sessions:
        _, row_was, row, said, says, _, _ = touched
        moved = row is not row_was and newest_key(row) != newest_key(row_was)
        if moved or all_of_it or says != said:
            _pair(change, touched, write, known=known and not again, moved=moved)
    for name in change.listed:
        _listed_pair(change, name, write, known)


def _pair(change: Change, touched: Touched, write: Write, *, known: bool, moved: bool) -> None:
    state, booking = change.state, change.state.booking
    name, _, row, said, says, _, _ = touched
    identity = attendance_id(state.booking_id, name)
    contributed = _contribution(name, says, booking)
    if not contributed:
        write.pair_anew(identity, b"")
        return
    document = _document(state.booking_id, name, contributed, row if says else b"")
    if known:
        was = contributed if said == says and not change.whole else _contribution(name, said, change.was.booking)
        if moved or was != contributed:
            write.pair(identity, document, contributed, was)
    else:
        write.pair_anew(identity, document)


def _listed_pair(change: Change, name: str, write: Write, known: bool) -> None:
    state = change.state
    was, now = _contribution(name, b"", change.was.booking), _contribution(name, b"", state.booking)
    if was != now or not known or change.again:
        document = _document(state.booking_id, name, now, b"") if now else b""
        write.pair_anew(attendance_id(state.booking_id, name), document)


def _contribution(name: str, says: bytes, booking: Booking | None) -> bytes:
    """What the pair adds to the session's tally; empty where there is no pair."""
    expected, window = listing(name, booking)
    return contribution(says, expected, window) if says or window is not None else b""


def _document(booking_id: str, name: str, contributed: bytes, row: bytes) -> bytes:
    """The packed pair; an empty row: it is only listed."""
    if not row:
        return pack(contributed, name, booking_id)
    newest = newest_of(row)
    return pack(contributed, name, booking_id, row[newest : newest + 8], source_of(row, newest))


def _alerts(changes: Iterable[Change], write: Write, published: list[AlertEvent]) -> None:
    due = list(_due_alerts(changes))
    events = [
        alert_events.opened(alert_events.open_alert(kind, judged), judged) if is_open else alert_events.resolved(kind, judged)
        for kind, judged, is_open in due
    ]
    published += events
    write.alerts += [
        _open(event["data"]) if is_open else _closed(event["data"]) for event, (_, _, is_open) in zip(events, due, strict=True)
    ]


def _due_alerts(changes: Iterable[Change]) -> Iterator[tuple[AlertKind, Judged, bool]]:
    """What is to be said: of which kind, judged by what, whether it is open."""
    for change in changes:
        for touched in change.sessions:
            if touched[6] or touched[5] or (change.again and ever_of(touched[2])):
                yield from _session_alerts(change, touched)
        if change.state.ever_frequent:
            yield from _frequent_alert(change)


def _session_alerts(change: Change, touched: Touched) -> Iterator[tuple[AlertKind, Judged, bool]]:
    state, again = change.state, change.again
    name, row_was, row, said, _, mask_was, mask = touched
    now, then = state.judged_session(name), None
    if mask & mask_was and not again:
        was = see(row_was, said)
        # an alert shows its attendance: where that is another, so is the alert
        if was is not None and now.seen is not None and alike(was, now.seen):
            then = Judged(state.booking_id, name, row_was, was, change.was.booking, change.was.floor, "")
    for kind in kinds(mask):
        if then is None or not mask_was & BITS[kind] or alert_events.differs(kind, now, then):
            yield kind, now, True
    for kind in kinds((ever_of(row) if again else mask_was) & ~mask):
        yield kind, now, False


def _frequent_alert(change: Change) -> Iterator[tuple[AlertKind, Judged, bool]]:
    now, then = change.state.judged(), change.was.judged
    if change.state.frequent:
        if change.again or then is None or alert_events.differs(FREQUENT, now, then):
            yield FREQUENT, now, True
    elif then is not None or change.again:
        yield FREQUENT, now, False


def _closed(alert: AlertData) -> AlertChange:
    return AlertChange(alert["alertId"], alert["kind"], alert["bookingId"], alert.get("sessionId", ""), 0, "")


def _open(alert: AlertData) -> AlertChange:
    opened_ms = parse_time(alert["openedAt"]) // 1000
    session_id = alert.get("sessionId", "")
    json = orjson.dumps(alert).decode()
    return AlertChange(alert["alertId"], alert["kind"], alert["bookingId"], session_id, opened_ms, json)


def _has_rate(summary: Summary | None) -> bool:
    return summary is not None and summary.not_attended > 0


@lru_cache(maxsize=10_000)
def _summary(summary: Summary | None, had_rate: bool) -> bytes:
    """Packed for Redis; the few that there are come again and again."""
    if summary is None:
        return pack_summary(0.0, b"", had_rate=had_rate)
    json = orjson.dumps(
        {
            "attended": summary.attended,
            "notAttended": summary.not_attended,
            "notSet": summary.not_set,
            "noShowRate": summary.no_show_rate,
            "longestNoShowRun": summary.longest_run,
        }
    )
    return pack_summary(summary.no_show_rate, json, had_rate=had_rate)
