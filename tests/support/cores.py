"""Both cores side by side: whatever a test does with one is done with the other too, and must give the same bytes."""

import json
import warnings
from collections.abc import Collection, Coroutine, Iterable, Sequence
from itertools import chain
from types import SimpleNamespace
from typing import Any, TypeVar

from schemas.times import format_exact_time
from tests.support import oracle
from tests.support.oracle import Delivery
from worker.domain.alert_rules import Rules
from worker.domain.erasures import Erasures
from worker.domain.rows import BOOKINGS, EVENTS
from worker.read_model.transactions import MakeCommands
from worker.stream.core import Changes, Core, CoreOptions, StoredBooking
from worker.stream.decode_batch import Contents
from worker.stream.python_core import PythonCore

try:
    from worker.stream.native_core import NativeCore, create_transactions
except ImportError:
    warnings.warn("attendance-native is not installed: only the core in Python is tested (`make test` builds it)", stacklevel=1)
    NativeCore = None  # type: ignore[misc]

Result = TypeVar("Result")
Rows = dict[str, dict[bytes, bytes]]
"""By booking and suffix."""


def make_commands() -> MakeCommands | None:
    """Makes the commands of transactions; None without the native core."""
    return None if NativeCore is None else create_transactions()


def finished(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine that waits for nothing but its turn."""
    while True:
        try:
            work.send(None)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


class BothCores:
    """A core that asks both, and compares what they give."""

    def __init__(self, options: CoreOptions) -> None:
        self._cores: list[Core] = [PythonCore(options)]
        if NativeCore is not None:
            self._cores.append(NativeCore(options))

    async def decode(self, topic: int, records: Sequence[Any]) -> Contents:
        found = [await core.decode(topic, records) for core in self._cores]
        _assert_same([_contents(each) for each in found])
        # which bookings are in memory may differ
        return found[0]._replace(missing=sorted({name for each in found for name in each.missing}))

    def load(self, bookings: Iterable[StoredBooking]) -> None:
        stored = list(bookings)
        for core in self._cores:
            core.load(stored)

    async def apply(self, *, is_redelivery: bool, is_known: bool, projected_offset: int) -> Changes:
        found = [
            await core.apply(is_redelivery=is_redelivery, is_known=is_known, projected_offset=projected_offset)
            for core in self._cores
        ]
        _assert_same([_changes(each) for each in found])
        return found[-1]

    def forget(self, names: Collection[str]) -> None:
        for core in self._cores:
            core.forget(names)


def _assert_same(found: Sequence[dict[str, Any]]) -> None:
    first, *others = found
    for other in others:
        for name, value in first.items():
            assert other[name] == value, name


def _contents(contents: Contents) -> dict[str, Any]:
    return contents._asdict() | {
        "missing": [],
        # the order of the sessions counts
        "sources": {source: (*each[:-1], list(each.sessions.items())) for source, each in contents.sources.items()},
    }


def _changes(changes: Changes) -> dict[str, Any]:
    assert all(None not in [value for _, value in group[:-1]] or group[-1][1] is None for group in changes.rows)
    rows = list(chain.from_iterable(changes.rows))
    assert len(dict(rows)) == len(rows)
    return {
        "rows": dict(rows),
        "booking_rows": dict(chain.from_iterable(changes.booking_rows)),
        **{name: sorted(entries) for name, entries in vars(changes.entries).items()},
        # of one booking their order counts
        "bookings": sorted(changes.entries.bookings, key=_booking_of),
        "alerts": sorted(changes.alerts),
        "unchanged": {kind: count for kind, count in changes.unchanged.items() if count},
        "erasing": sorted(changes.erasing),
    }


def _booking_of(entry: bytes) -> bytes:
    """The booking of an entry of `Entries.bookings`."""
    at = 1 if entry[0] else 3
    return entry[at + 2 : at + 2 + int.from_bytes(entry[at : at + 2], "big")]


class Tables:
    """A partition whose rows are in memory: what a core changes is stored at once."""

    def __init__(
        self,
        rules: Rules,
        rows: Rows | None = None,
        references: dict[str, bytes] | None = None,
        *,
        partitions: int = 1,
        cached_bookings: int = 1_000,
    ) -> None:
        self.rows: Rows = {} if rows is None else rows
        self.references: dict[str, bytes] = {} if references is None else references
        self.erasures = Erasures({}, b"key")
        self.core = BothCores(CoreOptions(0, partitions, rules, lambda: cached_bookings))

    def fold(
        self, topic: int, records: Sequence[Any], *, is_redelivery: bool = False, known: bool = True, projected_offset: int = 0
    ) -> tuple[Contents, Changes]:
        """Folds a batch, and stores it."""
        contents = finished(self.core.decode(topic, records))
        self.core.load(self.stored(contents.missing))
        changes = finished(self.core.apply(is_redelivery=is_redelivery, is_known=known, projected_offset=projected_offset))
        for key, value in chain.from_iterable(changes.rows):
            booking, _, suffix = key.partition(b"\0")
            held = self.rows.setdefault(booking.decode(), {})
            if value is None:
                held.pop(suffix, None)
            else:
                held[suffix] = value
        for key, value in chain.from_iterable(changes.booking_rows):
            assert value is not None
            self.references[key[:-1].decode()] = value
        return contents, changes

    def stored(self, names: Iterable[str]) -> list[StoredBooking]:
        """Bookings as a table gives them."""
        return [
            StoredBooking(name, self.rows.get(name, {}), self.references.get(name), self.erasures.marker(name))
            for name in names
        ]


def fetched(record: Delivery | oracle.BookingRecord, offset: int) -> tuple[int, Any]:
    """(topic, record) as a worker reads it."""
    # in a header, because a record's timestamp has only milliseconds
    headers = [("attendance-received", format_exact_time(record.received).encode())]
    topic, key = (EVENTS, b"") if isinstance(record, Delivery) else (BOOKINGS, record.key.encode())
    value = None if record.event is None else json.dumps(record.event).encode()
    timestamp = record.received // 1000 + 1
    return topic, SimpleNamespace(value=value, headers=headers, timestamp=timestamp, key=key, offset=offset)
