"""From what a batch made of a booking to what readers and the alerts topic get of it. Pure."""

import orjson

from schemas.alerts import AlertData, AlertEvent, AlertKind
from schemas.attendance import attendance_id
from schemas.events import Booking
from schemas.times import parse_time
from worker.domain import alerts
from worker.domain.alerts import Judged
from worker.domain.mismatch import BITS, FREQUENT, kinds
from worker.domain.state import Before, BookingState, Change, Session
from worker.domain.views import Seen, Summary, alike, listing
from worker.read_model.documents import contribution, pack
from worker.read_model.writer import AlertChange, Write


def project(change: Change, write: Write, published: list[AlertEvent], *, known: bool) -> None:
    """Adds what changed, or is to be said again, to the write and to the alerts to publish.

    Args:
        known: whether Redis holds just what the states were before the batch; else it is asked what it holds.
    """
    state, again = change.state, change.again
    sessions, whole = state.sessions, change.whole
    for name, before in change.sessions.items():
        session = sessions[name]
        if again or whole or session.seen != before[1]:
            _pair(change, name, session, before[1], write, known and not again)
        if session.ever:
            _session_alerts(change, name, session, before, write, published)
    for name in change.listed:
        _listed_pair(change, name, write, known)
    if state.ever_frequent:
        _frequent_alert(change, write, published)
    if again or state.summary != change.was.summary:
        write.summary(state.booking_id, _summary(state.summary))


def whole(state: BookingState, write: Write) -> None:
    """Adds all that readers see of a booking, for a repair."""
    for name, seen in state.pairs():
        contributed = _contribution(name, seen, state.booking)
        identity = attendance_id(state.booking_id, name)
        write.pair(identity, pack(contributed, seen, name, state.booking_id), contributed, b"")
    for name, session in state.sessions.items():
        if session.mask:
            judged = state.judged_session(name)
            write.alerts += (_open(alerts.open_alert(kind, judged)) for kind in kinds(session.mask))
    if state.frequent:
        write.alerts.append(_open(alerts.open_alert(FREQUENT, state.judged())))
    if state.summary is not None:
        write.summary(state.booking_id, _summary(state.summary))


def said(state: BookingState, kind: AlertKind, session_id: str | None) -> AlertEvent | None:
    """What the alerts topic should say last of an alert; None where it was never open."""
    if session_id is None:
        is_open, ever, judged = state.frequent, state.ever_frequent, state.judged()
    elif session_id in state.sessions:
        session, bit = state.sessions[session_id], BITS[kind]
        is_open, ever, judged = bool(session.mask & bit), bool(session.ever & bit), state.judged_session(session_id)
    else:
        return None
    if is_open:
        return alerts.opened(alerts.open_alert(kind, judged), judged)
    return alerts.resolved(kind, judged) if ever else None


def _pair(change: Change, name: str, session: Session, before: Seen | None, write: Write, known: bool) -> None:
    state = change.state
    identity = session.identity
    if not identity:
        identity = session.identity = attendance_id(state.booking_id, name)
    contributed = _contribution(name, session.seen, state.booking)
    document = pack(contributed, session.seen, name, state.booking_id) if contributed else b""
    if not known or not contributed:
        write.pair_anew(identity, document)
        return
    seen = session.seen
    if not change.whole and before and seen and before[0] is seen[0] and before[1] == seen[1]:
        was = contributed
    else:
        was = _contribution(name, before, change.was.booking)
    if was != contributed or before != seen:
        write.pair(identity, document, contributed, was)


def _listed_pair(change: Change, name: str, write: Write, known: bool) -> None:
    state = change.state
    was, now = _contribution(name, None, change.was.booking), _contribution(name, None, state.booking)
    if was == now and known and not change.again:
        return
    identity = attendance_id(state.booking_id, name)
    write.pair_anew(identity, pack(now, None, name, state.booking_id) if now else b"")


def _contribution(name: str, seen: Seen | None, booking: Booking | None) -> bytes:
    """What the pair adds to the session's tally; empty where there is no pair."""
    expected, window = listing(name, booking)
    if seen is None and window is None:
        return b""
    return contribution(seen, expected, window)


def _session_alerts(
    change: Change, name: str, session: Session, before: Before, write: Write, published: list[AlertEvent]
) -> None:
    state, again = change.state, change.again
    row, seen, mask, _ = before
    closed = (session.ever if again else mask) & ~session.mask
    if not session.mask and not closed:
        return
    after = state.judged_session(name)
    if session.mask:
        # an alert shows its attendance: where that is another, so is the alert
        moved = again or seen is None or session.seen is None or not alike(seen, session.seen)
        then = Judged(state.booking_id, name, row, seen, change.was.booking, change.was.floor, "")
        for kind in kinds(session.mask):
            alert = alerts.open_alert(kind, after)
            if moved or not mask & BITS[kind] or alert != alerts.open_alert(kind, then):
                published.append(alerts.opened(alert, after))
                write.alerts.append(_open(alert))
    for kind in kinds(closed):
        event = alerts.resolved(kind, after)
        published.append(event)
        write.alerts.append(_closed(event["data"]))


def _frequent_alert(change: Change, write: Write, published: list[AlertEvent]) -> None:
    state, again, then = change.state, change.again, change.was.judged
    if state.frequent:
        judged = state.judged()
        alert = alerts.open_alert(FREQUENT, judged)
        if again or then is None or alert != alerts.open_alert(FREQUENT, then):
            published.append(alerts.opened(alert, judged))
            write.alerts.append(_open(alert))
    elif then is not None or again:
        event = alerts.resolved(FREQUENT, state.judged())
        published.append(event)
        write.alerts.append(_closed(event["data"]))


def _closed(alert: AlertData) -> AlertChange:
    return AlertChange(alert["alertId"], alert["kind"], alert["bookingId"], alert.get("sessionId", ""), 0, "")


def _open(alert: AlertData) -> AlertChange:
    opened_ms = parse_time(alert["openedAt"]) // 1000
    session_id = alert.get("sessionId", "")
    json = orjson.dumps(alert).decode()
    return AlertChange(alert["alertId"], alert["kind"], alert["bookingId"], session_id, opened_ms, json)


def _summary(summary: Summary | None) -> dict[str, object] | None:
    if summary is None:
        return None
    return {
        "attended": summary.attended,
        "notAttended": summary.not_attended,
        "notSet": summary.not_set,
        "noShowRate": summary.no_show_rate,
        "longestNoShowRun": summary.longest_run,
    }
