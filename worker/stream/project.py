"""From what a batch made of a booking to what readers and the alerts topic get of it. Pure."""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson

from schemas.alerts import AlertData, AlertEvent, alert_id
from schemas.attendance import attendance_id
from schemas.times import parse_time
from worker.domain import alerts
from worker.domain.alerts import Judged
from worker.domain.mismatch import BITS, FREQUENT, kinds
from worker.domain.state import BookingState, Draft, Session
from worker.domain.views import Pair, Summary
from worker.read_model.documents import PairDocument
from worker.read_model.writer import AlertChange, BookingUpdate

_identity = lru_cache(maxsize=100_000)(attendance_id)


def publications(draft: Draft) -> Iterator[AlertEvent]:
    """Alerts that opened, changed or resolved; where a record was redelivered, the state now of each that ever was open."""
    for name, session in draft.sessions.items():
        if not session.mask and not session.ever:
            continue
        before, after = judged_before(draft.state, name, session.before), session.judged(draft, name)
        closing = (session.ever if session.again else session.before.mask) & ~session.mask
        for kind in kinds(session.mask):
            known = alerts.open_alert(kind, before) if session.before.mask & BITS[kind] else None
            if session.again or known != alerts.open_alert(kind, after):
                yield alerts.opened(kind, after)
        yield from (alerts.resolved(kind, after) for kind in kinds(closing))
    yield from _frequent_publications(draft)


def _frequent_publications(draft: Draft) -> Iterator[AlertEvent]:
    again, was = says_again(draft), draft.state.frequent
    if draft.frequent:
        after = draft.judged()
        if (
            again
            or not was
            or alerts.open_alert(FREQUENT, unchanged(draft.state).judged()) != alerts.open_alert(FREQUENT, after)
        ):
            yield alerts.opened(FREQUENT, after)
    elif was or (again and draft.ever_frequent):
        yield alerts.resolved(FREQUENT, draft.judged())


def update(draft: Draft) -> BookingUpdate | None:
    """What changes for readers, None where nothing does."""
    booking_id, again = draft.state.booking_id, says_again(draft)
    pairs = [
        _document(booking_id, name, session.pair)
        for name, session in draft.sessions.items()
        if session.again or session.pair != session.before.pair
    ]
    pairs += [_document(booking_id, name, after) for name, (_, after) in draft.listed.items()]
    has_summary = again or draft.summary != draft.state.summary
    changes = list(_alert_changes(draft, again))
    if not pairs and not has_summary and not changes:
        return None
    return BookingUpdate(booking_id, pairs, _summary(booking_id, draft.summary), has_summary, changes)


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
    ends = (state.floor, state.offset, state.booking, state.booking_offset)
    return Draft(state, *ends, {}, {}, state.summary, state.frequent, again=False)


def says_again(draft: Draft) -> bool:
    """Whether a redelivered record touches the booking anywhere."""
    return draft.again or any(session.again for session in draft.sessions.values())


def _alert_changes(draft: Draft, again: bool) -> Iterator[AlertChange]:
    booking_id = draft.state.booking_id
    for name, session in draft.sessions.items():
        closing = (session.ever if session.again else session.before.mask) & ~session.mask
        yield from (AlertChange(alert_id(kind, booking_id, name), kind, booking_id, name, 0, "") for kind in kinds(closing))
        if session.mask:
            judged = session.judged(draft, name)
            yield from (_open(alerts.open_alert(kind, judged)) for kind in kinds(session.mask))
    if draft.frequent:
        # its openedAt is the newest attendance's, which any change of the booking may have moved
        if draft.sessions or draft.listed or again:
            yield _open(alerts.open_alert(FREQUENT, draft.judged()))
    elif draft.state.frequent or (again and draft.ever_frequent):
        yield AlertChange(alert_id(FREQUENT, booking_id, None), FREQUENT, booking_id, "", 0, "")


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
