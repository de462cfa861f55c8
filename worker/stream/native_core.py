"""The core in Rust (``worker/native``): what it does not decode itself, the explaining decoder in Python decodes for it."""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import attendance_native

from schemas.decoding.bindings import Headers, is_binary
from schemas.decoding.explain import decode, decode_booking, received_at
from schemas.events import BookingGone, DeadLetter, Event
from worker.domain.booking_content import EncodedBooking
from worker.domain.booking_state import record_order
from worker.domain.devices import SourceEvents
from worker.domain.row_codec import OtherFormat
from worker.domain.rows import EVENTS, encode_reference
from worker.engine.partition_appender import Group
from worker.read_model import keys
from worker.read_model.transactions import MakeCommands
from worker.read_model.write_batch import Entries
from worker.stream.core import Changes, CoreOptions, StoredBooking, run_here
from worker.stream.decode_batch import Contents, backfills_of, has_backfill, read_bookings

#: Records of a batch that is worked on in a thread: Redis and Kafka are served meanwhile. The way there and back costs 0.1 ms.
_LARGE_BATCH = 500
#: Bytes that a booking in memory takes, about.
_BOOKING_BYTES = 3_000


def create_transactions() -> MakeCommands:
    """Makes the commands of transactions in Rust."""
    names = {name: key for name, key in vars(keys).items() if name.isupper() and isinstance(key, str)}
    made: MakeCommands = attendance_native.Transactions(names, keys.DOC_SHIFT)
    return made


class NativeCore:
    """See `worker.stream.core.Core`."""

    def __init__(self, options: CoreOptions) -> None:
        self._options = options
        self._core = attendance_native.Core(options.partition, options.partitions, *options.rules)
        self._run: Callable[..., Awaitable[Any]] = run_here
        """Runs what the batch needs of the core."""
        self._backfills: dict[bytes, bytes] = {}
        """By booking, the operation that published all of its records in the batch again."""

    async def decode(self, topic: int, records: Sequence[Any]) -> Contents:
        self._run = self._options.run if len(records) >= _LARGE_BATCH else run_here
        return await (self._decode_events(records) if topic == EVENTS else self._decode_bookings(records))

    async def _decode_events(self, records: Sequence[Any]) -> Contents:
        max_age, is_backfill = self._options.rules.max_event_age, has_backfill(records)
        # which operation published an event again is read beside the event
        unusual = await self._run(self._core.decode, [] if is_backfill else records)
        dead_letters, explained = [], dict[int, Event]()
        for index in range(len(records)) if is_backfill else unusual:
            record = records[index]
            event = decode(record.value, record.headers, record.timestamp, max_age=max_age)
            if isinstance(event, DeadLetter):
                dead_letters.append((record, event, received_at(record.headers, record.timestamp)))
            else:
                explained[index] = event
                self._core.add(index, event)
        ours = ((records[index], event) for index, event in explained.items() if is_backfill)
        self._backfills = _encoded(backfills_of(ours))
        missing, forwards, newest, folded, forwarded, sources = self._core.contents()
        return Contents(
            missing=[name.decode() for name in missing],
            last_places={},
            dead_letters=dead_letters,
            forwards=[(records[index], name, received) for index, name, received in sorted(forwards)],
            newest=newest,
            folded=folded,
            forwarded=forwarded,
            sources={name: SourceEvents(*each) for name, *each in sources},
        )

    async def _decode_bookings(self, records: Sequence[Any]) -> Contents:
        batch = await read_bookings(records, self._core.is_ours, _decode_booking)
        self._core.begin()
        for name, booking_records in batch.booking_records.items():
            self._core.add_record(name.encode(), encode_reference(max(booking_records, key=record_order)))
        self._backfills = _encoded(batch.backfills)
        missing, *_ = self._core.contents()
        return batch.contents._replace(missing=[name.decode() for name in missing])

    def load(self, bookings: Iterable[StoredBooking]) -> None:
        for name, rows, reference, marker in bookings:
            try:
                self._core.load(name.encode(), dict(rows), reference, marker)
            except ValueError as error:
                raise OtherFormat(error.args[0]) from None

    async def apply(self, *, is_redelivery: bool, is_known: bool, projected_offset: int) -> Changes:
        most_bytes = self._options.cached_bookings() * _BOOKING_BYTES
        given = is_redelivery, is_known, projected_offset, self._backfills, most_bytes
        rows, booking_rows, pairs, bookings, alerts, records, unchanged, erasing = await self._run(self._core.apply, *given)
        entries = Entries()
        entries.pairs, entries.bookings, entries.alerts = pairs, bookings, alerts
        groups: list[Group] = [[row] for row in booking_rows]
        return Changes(rows, groups, entries, records, unchanged, erasing)

    def forget(self, names: Collection[str]) -> None:
        self._core.forget([name.encode() for name in names])


def _decode_booking(value: bytes | None, headers: Headers, key: bytes | None) -> Any:
    """As `decode_booking`; a booking that the crate decodes is encoded already."""
    typical = None if value is None or is_binary(headers) else attendance_native.decode_booking(value)
    if typical is None:
        return decode_booking(value, headers, key)
    booking_id, content = typical
    return BookingGone(booking_id) if content is None else EncodedBooking(booking_id, *content)


def _encoded(backfills: Mapping[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): operation.encode() for name, operation in backfills.items() if operation}
