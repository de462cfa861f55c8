"""The core in Python: the specification, and what runs where there is no wheel of the native one."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Any

from worker.domain.booking_state import BookingState, Change, apply_records
from worker.domain.fold import NEVER
from worker.domain.rows import changed_rows, load, void_rows
from worker.engine.table import records_of
from worker.stream.core import Changes, CoreOptions, StoredBooking
from worker.stream.decode_batch import EMPTY, Contents, decode_batch
from worker.stream.projection import Projection, alert_record
from worker.topics import partition_of

#: Bookings that are folded before other tasks get their turn.
_FOLDED_AT_ONCE = 500


class PythonCore:
    """See `worker.stream.core.Core`."""

    def __init__(self, options: CoreOptions) -> None:
        self._options = options
        self._states: dict[str, BookingState] = {}
        """The bookings in memory, the least recently used one first."""
        self._batch = EMPTY

    async def decode(self, topic: int, records: Sequence[Any]) -> Contents:
        self._batch = batch = await decode_batch(topic, records, self._is_ours, self._options.rules)
        names = dict.fromkeys([*batch.events, *batch.booking_records])
        return batch.contents._replace(missing=[name for name in names if name not in self._states])

    def load(self, bookings: Iterable[StoredBooking]) -> None:
        for name, rows, reference, marker in bookings:
            self._states[name] = load(name, rows, reference, self._options.rules, marker)

    async def apply(self, *, is_redelivery: bool, is_known: bool, projected_offset: int) -> Changes:
        batch, self._batch = self._batch, EMPTY
        projection, unchanged = Projection(known=is_known, backfills=batch.backfills), list[str]()
        changes = Changes([], [], projection.entries, [], {}, [])
        names = iter(dict.fromkeys([*batch.events, *batch.booking_records]))
        while some := list(islice(names, _FOLDED_AT_ONCE)):
            changed = apply_records(
                ((self._used(name), batch.events.get(name, ()), batch.booking_records.get(name, ())) for name in some),
                self._options.rules,
                is_redelivery=is_redelivery,
                projected_offset=projected_offset,
                unchanged=unchanged,
            )
            projection.add(changed)
            for change in changed:
                _add_rows(changes, change)
            await asyncio.sleep(0)
        changes.alerts.extend(map(alert_record, projection.published))
        for name in list(islice(self._states, max(0, len(self._states) - self._options.cached_bookings()))):
            del self._states[name]
        return changes._replace(unchanged=Counter(unchanged))

    def forget(self, names: Collection[str]) -> None:
        for name in names:
            self._states.pop(name, None)

    def _is_ours(self, booking_id: str) -> bool:
        return booking_id in self._states or partition_of(booking_id, self._options.partitions) == self._options.partition

    def _used(self, name: str) -> BookingState:
        # removed and inserted again, so that the first one is always the least recently used
        state = self._states[name] = self._states.pop(name)
        return state


def _add_rows(changes: Changes, change: Change) -> None:
    state, (rows, reference) = change.state, changed_rows(change)
    group = state.booking_id.encode()
    if rows:
        changes.rows.append(records_of(group, rows))
    if reference is not None:
        changes.booking_rows.append(records_of(group, {b"": reference}))
    if state.erasure_horizon == NEVER:
        return
    is_unknown_now = change.record is not None and state.booking is None
    # as of a late deletion, which moves the horizon of its session
    has_void_row = void_rows(state, [suffix for suffix, row in rows.items() if row is not None])
    if state.erasure_horizon > change.before.erasure_horizon or is_unknown_now or has_void_row:
        changes.erasing.append(state.booking_id)
