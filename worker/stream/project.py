"""From what a batch made of a booking to what readers and the alerts topic get of it. Pure."""

from functools import lru_cache
from typing import Any, NamedTuple

import orjson

from schemas.alerts import AlertData, AlertEvent, AlertKind, alert_id
from schemas.attendance import attendance_id
from schemas.times import parse_time
from worker.domain import alerts
from worker.domain.alerts import Judged
from worker.domain.mismatch import BITS, FREQUENT, kinds
from worker.domain.state import BookingState, Draft, Session, SessionDraft
from worker.domain.views import Pair, Summary
from worker.read_model.documents import PairDocument
from worker.read_model.writer import AlertChange, BookingUpdate

_identity = lru_cache(maxsize=100_000)(attendance_id)


class Effects(NamedTuple):
    """What a batch does outside: alerts to publish, and what readers get (None: nothing changes for them)."""

    published: list[AlertEvent]
    update: BookingUpdate | None


def effects(draft: Draft) -> Effects:
    """What changed; where a record was redelivered, the state now of all that it touches."""
    booking_id, again = draft.state.booking_id, _says_again(draft)
    pairs = [
        _document(booking_id, name, session.pair)
        for name, session in draft.sessions.items()
        if session.again or session.pair != session.before.pair
    ]
    pairs += [_document(booking_id, name, after) for name, (_, after) in draft.listed.items()]
    published: list[AlertEvent] = []
    changes: list[AlertChange] = []
    for name, session in draft.sessions.items():
        if session.ever:
            _session_alerts(draft, name, session, published, changes)
    if draft.ever_frequent:
        _frequent_alert(draft, again, published, changes)
    has_summary = again or draft.summary != draft.state.summary
    if not pairs and not has_summary and not changes:
        return Effects(published, None)
    summary = _summary(booking_id, draft.summary) if has_summary else None
    return Effects(published, BookingUpdate(booking_id, pairs, summary, has_summary, changes))


def _session_alerts(
    draft: Draft, name: str, session: SessionDraft, published: list[AlertEvent], changes: list[AlertChange]
) -> None:
    before, after = judged_before(draft.state, name, session.before), session.judged(draft, name)
    for kind in kinds(session.mask):
        known = alerts.open_alert(kind, before) if session.before.mask & BITS[kind] else None
        alert = alerts.open_alert(kind, after)
        if session.again or alert != known:
            published.append(alerts.opened(alert, after))
            changes.append(_open(alert))
    for kind in kinds((session.ever if session.again else session.before.mask) & ~session.mask):
        published.append(alerts.resolved(kind, after))
        changes.append(_closed(kind, draft.state.booking_id, name))


def _frequent_alert(draft: Draft, again: bool, published: list[AlertEvent], changes: list[AlertChange]) -> None:
    was = draft.state.frequent
    if draft.frequent:
        known = alerts.open_alert(FREQUENT, unchanged(draft.state).judged()) if was else None
        judged = draft.judged()
        alert = alerts.open_alert(FREQUENT, judged)
        if again or alert != known:
            published.append(alerts.opened(alert, judged))
            changes.append(_open(alert))
    elif was or again:
        published.append(alerts.resolved(FREQUENT, draft.judged()))
        changes.append(_closed(FREQUENT, draft.state.booking_id, None))


def whole(state: BookingState) -> BookingUpdate:
    """All that readers see of a booking, for a repair."""
    pairs = [_document(state.booking_id, name, pair) for name, pair in state.pairs()]
    opened: list[AlertChange] = []
    for name, session in state.sessions.items():
        if session.mask:
            judged = judged_before(state, name, session)
            opened += (_open(alerts.open_alert(kind, judged)) for kind in kinds(session.mask))
    if state.frequent:
        opened.append(_open(alerts.open_alert(FREQUENT, unchanged(state).judged())))
    summary = _summary(state.booking_id, state.summary)
    return BookingUpdate(state.booking_id, pairs, summary, summary is not None, opened)


def judged_before(state: BookingState, name: str, session: Session) -> Judged:
    """What a session's alerts are judged by before a batch."""
    seen = session.pair.attendance if session.pair else None
    return Judged(state.booking_id, name, session.row, seen, state.booking, state.floor)


def unchanged(state: BookingState) -> Draft:
    """The draft of a batch that changes nothing."""
    ends = (state.floor, state.offset, state.booking, state.booking_offset, state.formerly)
    return Draft(state, *ends, {}, {}, state.summary, state.frequent, again=False)


def _says_again(draft: Draft) -> bool:
    """Whether a redelivered record touches the booking anywhere."""
    if not draft.again:
        for session in draft.sessions.values():
            if session.again:
                return True
    return draft.again


def _closed(kind: AlertKind, booking_id: str, session_id: str | None) -> AlertChange:
    return AlertChange(alert_id(kind, booking_id, session_id), kind, booking_id, session_id or "", 0, "")


def _open(alert: AlertData) -> AlertChange:
    opened_ms = parse_time(alert["openedAt"]) // 1000
    session_id = alert.get("sessionId", "")
    json = orjson.dumps(alert).decode()
    return AlertChange(alert["alertId"], alert["kind"], alert["bookingId"], session_id, opened_ms, json)


def _document(booking_id: str, session_id: str, pair: Pair | None) -> tuple[bytes, PairDocument | None]:
    identity = _identity(booking_id, session_id)
    if pair is None:
        return identity, None
    return identity, PairDocument(booking_id, session_id, pair.attendance, pair.expected, pair.window)


def _summary(booking_id: str, summary: Summary | None) -> dict[str, Any] | None:
    if summary is None:
        return None
    return {
        "bookingId": booking_id,
        "attended": summary.attended,
        "notAttended": summary.not_attended,
        "notSet": summary.not_set,
        "noShowRate": summary.no_show_rate,
        "longestNoShowRun": summary.longest_run,
    }
