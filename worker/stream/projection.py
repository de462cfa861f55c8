"""From the changes of a batch to what is written for readers and published in the alerts topic. Pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import orjson

from schemas.alerts import AlertData, AlertEvent, AlertKind, alert_id
from schemas.attendance import attendance_id
from schemas.events import Booking
from schemas.times import parse_time
from worker.domain import alert_events
from worker.domain.alert_events import AlertInput
from worker.domain.alert_rules import BITS, FREQUENT, kinds
from worker.domain.booking_state import BookingState, Change, SessionDelta, listed_by
from worker.domain.devices import Devices, SourceEvents
from worker.domain.differences import open_alerts
from worker.domain.fold import NOTHING, Mark
from worker.domain.row_codec import arrival_minute, attendance_value
from worker.domain.summaries import listing, same_for_readers
from worker.engine.partition_appender import Record
from worker.read_model.documents import contribution, pack
from worker.read_model.write_batch import AlertChange, Entries
from worker.stream.booking_projection import project_booking, project_changed_booking


class Projection:
    """What a batch changes for readers and publishes.

    Args:
        known: whether Redis holds exactly the states from before the batch; otherwise the script reads what it holds.
        backfills: see `DecodedBatch.backfills`.
    """

    def __init__(self, *, known: bool, backfills: Mapping[str, str] = MappingProxyType({})) -> None:
        self.entries = Entries()
        self.published: list[AlertEvent] = []
        """Events for the alerts topic."""
        self._known = known
        self._backfills = backfills

    def add(self, changes: Sequence[Change]) -> None:
        """Adds what changed, or is emitted again; at most one change of each booking in all."""
        for change in changes:
            _project_pairs(change, self.entries, self._known)
        for kind, judged, is_open in list(_due_alerts(changes)):
            event = alert_events.alert_event(kind, judged, is_open=is_open)
            if operation := self._backfills.get(judged.booking_id):
                event["backfill"] = operation
            _add_alert(self.entries, event["data"], is_open=is_open)
            self.published.append(event)
        for change in changes:
            project_changed_booking(change, self.entries, known=self._known and not change.is_redelivery)


def project_changed_devices(
    devices: Devices, sources: Mapping[str, SourceEvents], entries: Entries, *, is_redelivery: bool
) -> Mapping[str, bytes | None]:
    """Takes the newest event of each source of a batch, and adds what changed to the entries; returns that for the table.

    Args:
        devices: those of the partition, which are updated.
        sources: of the batch.
        entries: of the batch.
        is_redelivery: whether the batch may have been applied before: then all of its sources are emitted again.
    """
    changed = devices.update({source: each.newest for source, each in sources.items()})
    newest = devices.newest()
    for source in changed.keys() | sources.keys() if is_redelivery else changed:
        entries.device(source, newest.get(source))
    return changed


def surplus_devices(devices: Devices, held: Collection[str]) -> Entries:
    """The removal of those held by readers that are not among the devices: an owner died before it removed them."""
    entries = Entries()
    for source in held:
        if source not in devices.newest():
            entries.device(source, None)
    return entries


def project_all(
    state: BookingState, entries: Entries, sessions: Collection[str] | None = None, *, is_empty: bool = True
) -> None:
    """Adds everything that readers see of a booking (at these sessions, and of the booking as a whole).

    Args:
        state: the booking.
        entries: to which it is added.
        sessions: only of these.
        is_empty: whether the read models hold nothing of it yet, as those that a repair fills.
    """
    names = state.rows.keys() | listed_by(state.booking).keys()
    for name in names if sessions is None else names & set(sessions):
        status = state.statuses.get(name, b"")
        row = state.rows[name].row if status else NOTHING
        contributed = _contribution(name, status, state.booking)
        if contributed:
            document = _document(state.booking_id, name, contributed, arrival_minute(row, status), row.newest)
            identity = state.identity(name)
            if is_empty:
                entries.pair(identity, document, contributed, b"")
            else:
                entries.pair_anew(identity, document)
    for (_, session_id), alert in open_alerts(state).items():
        if sessions is None or session_id is None or session_id in sessions:
            _add_alert(entries, alert, is_open=True)
    if state.summary is not None:
        project_booking(state, entries, is_empty=is_empty)


def alert_record(event: AlertEvent) -> Record:
    """The record of the alerts topic that holds an event."""
    return event["data"]["alertId"].encode(), orjson.dumps(event)


def past_alerts(state: BookingState) -> Iterator[bytes]:
    """The key of each alert of a booking that was open once and is not now."""
    for name, row in state.rows.items():
        for kind in kinds(row.ever_opened & ~state.masks.get(name, 0)):
            yield alert_id(kind, state.booking_id, name).encode()
    if state.ever_frequent and not state.frequent:
        yield alert_id(FREQUENT, state.booking_id, None).encode()


def current_alert_event(state: BookingState, kind: AlertKind, session_id: str | None) -> AlertEvent | None:
    """The event that should be the last of an alert in the alerts topic; None if the alert was never open."""
    if session_id is None:
        is_open, ever_opened, judged = state.frequent, state.ever_frequent, state.judged()
    elif session_id in state.rows:
        is_open, ever_opened = (
            bool(mask & BITS[kind]) for mask in (state.masks.get(session_id, 0), state.rows[session_id].ever_opened)
        )
        judged = state.judged_session(session_id)
    else:
        return None
    return alert_events.alert_event(kind, judged, is_open=is_open) if is_open or ever_opened else None


def _project_pairs(change: Change, entries: Entries, known: bool) -> None:
    is_redelivery, emit_all = change.is_redelivery, change.is_redelivery or change.affects_all
    for delta in change.sessions:
        _, row_before, row, status_before, status, _, _ = delta
        # the minute of the arrival moves only together with the newest event or the status
        newest_changed = row.row.newest != row_before.row.newest
        if newest_changed or emit_all or status != status_before:
            _project_pair(change, delta, entries, known=known and not is_redelivery, newest_changed=newest_changed)
    for name in change.listed:
        _project_listed_pair(change, name, entries, known)


def _project_pair(change: Change, delta: SessionDelta, entries: Entries, *, known: bool, newest_changed: bool) -> None:
    state, booking = change.state, change.state.booking
    name, row_before, row, status_before, status, _, _ = delta
    identity = state.identity(name)
    contributed = _contribution(name, status, booking)
    if not contributed:
        entries.pair_anew(identity, b"")
        return
    minute = arrival_minute(row.row, status)
    document = _document(state.booking_id, name, contributed, minute, row.row.newest if status else None)
    if known:
        before = (
            contributed
            if status_before == status and not change.affects_all
            else _contribution(name, status_before, change.before.booking)
        )
        if newest_changed or before != contributed:
            has_moved = minute != arrival_minute(row_before.row, status_before)
            entries.pair(identity, document, contributed, before, has_moved=has_moved)
    else:
        entries.pair_anew(identity, document)


def _project_listed_pair(change: Change, name: str, entries: Entries, known: bool) -> None:
    state = change.state
    before, now = (_contribution(name, b"", booking) for booking in (change.before.booking, state.booking))
    if before != now or not known or change.is_redelivery:
        document = _document(state.booking_id, name, now, 0, None) if now else b""
        # not kept: a booking may list any number of sessions, one after the other
        entries.pair_anew(attendance_id(state.booking_id, name), document)


def _contribution(name: str, status: bytes, booking: Booking | None) -> bytes:
    """What the pair adds to the session's tally; empty if there is no pair."""
    expected, window = listing(name, booking)
    if not status and window is None:
        return b""
    return contribution(status, expected, window)


def _document(booking_id: str, name: str, contributed: bytes, minute: int, newest: Mark | None) -> bytes:
    """The packed pair; without a newest event the session is only listed."""
    if newest is None:
        return pack(contributed, name, booking_id)
    return pack(contributed, name, booking_id, minute, newest.key[:8], newest.source)


def _due_alerts(changes: Iterable[Change]) -> Iterator[tuple[AlertKind, AlertInput, bool]]:
    """(kind, what it is detected from, whether it is open) of each alert to emit."""
    for change in changes:
        for delta in change.sessions:
            if delta.mask or delta.mask_before or (change.is_redelivery and delta.row.ever_opened):
                yield from _session_alerts(change, delta)
        if change.state.ever_frequent:
            yield from _frequent_alert(change)


def _session_alerts(change: Change, delta: SessionDelta) -> Iterator[tuple[AlertKind, AlertInput, bool]]:
    state, is_redelivery = change.state, change.is_redelivery
    name, row_before, row, status_before, _, mask_before, mask = delta
    now, then = state.judged_session(name), None
    if mask & mask_before and not is_redelivery:
        attendance_before, before = attendance_value(row_before.row, status_before), change.before
        # an alert contains its attendance: if that changed, so did the alert
        if attendance_before is not None and now.attendance is not None and same_for_readers(attendance_before, now.attendance):
            then = AlertInput(state.booking_id, name, row_before, attendance_before, before.booking, before.erasure_horizon, "")
    for kind in kinds(mask):
        if then is None or not mask_before & BITS[kind] or alert_events.differs(kind, now, then):
            yield kind, now, True
    for kind in kinds((row.ever_opened if is_redelivery else mask_before) & ~mask):
        yield kind, now, False


def _frequent_alert(change: Change) -> Iterator[tuple[AlertKind, AlertInput, bool]]:
    now, then = change.state.judged(), change.before.judged
    if change.state.frequent:
        if change.is_redelivery or then is None or alert_events.differs(FREQUENT, now, then):
            yield FREQUENT, now, True
    elif then is not None or change.is_redelivery:
        yield FREQUENT, now, False


def _add_alert(entries: Entries, alert: AlertData, *, is_open: bool) -> None:
    opened_ms, json = (parse_time(alert["openedAt"]) // 1000, orjson.dumps(alert).decode()) if is_open else (0, "")
    session_id = alert.get("sessionId", "")
    entries.alert(AlertChange(alert["alertId"], alert["kind"], alert["bookingId"], session_id, opened_ms, json))
