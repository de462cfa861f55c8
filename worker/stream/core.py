"""The law of one partition behind one interface: decode a batch, load the bookings that it needs, apply it.

Two implementations keep it: `python_core`, which is the specification and runs everywhere, and `native_core`, which calls the
crate in ``worker/native``. Both give the same bytes; tests compare them.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from worker.domain.alert_rules import Rules
from worker.domain.erasures import Marker
from worker.engine.partition_appender import Group, Record
from worker.read_model.write_batch import Entries
from worker.stream.decode_batch import Contents


class StoredBooking(NamedTuple):
    """A booking as the tables hold it."""

    booking_id: str
    rows: Mapping[bytes, bytes]
    """Of ``attendance``, by suffix."""
    reference: bytes | None
    """Of ``bookings``."""
    marker: Marker | None
    """Of an erased booking."""


class Changes(NamedTuple):
    """What a batch changed. The records of a booking make a group."""

    rows: list[Group]
    """Of ``attendance``."""
    booking_rows: list[Group]
    """Of ``bookings``."""
    entries: Entries
    """For readers."""
    alerts: list[Record]
    """Of the alerts topic."""
    unchanged: Mapping[str, int]
    """By type, how many events had no effect: copies, superseded or covered by a horizon; of a redelivered batch none."""
    erasing: list[str]
    """Bookings of which rows are to leave: the batch erased them, or they are erased and it made them unknown or changed a row
    that is void."""


class Core(Protocol):
    """The bookings of a partition that are in memory, and the batch that is worked on.

    If a batch fails before its rows are stored, its partition is closed, and its core with it: memory is never ahead of a table
    that others read.
    """

    async def decode(self, topic: int, records: Sequence[Any]) -> Contents:
        """Begins a batch: decodes the records of one poll of the events or the bookings topic (see `worker.domain.rows`)."""
        ...

    def load(self, bookings: Iterable[StoredBooking]) -> None:
        """Loads bookings; all that `Contents.missing` names must be loaded before the batch is applied.

        Raises:
            worker.domain.row_codec.OtherFormat: another version wrote one of the rows.
        """
        ...

    async def apply(self, *, is_redelivery: bool, is_known: bool, projected_offset: int) -> Changes:
        """Applies the batch.

        Args:
            is_redelivery: whether it was redelivered, and may have been applied before: what it touches is emitted again.
            is_known: whether Redis holds exactly the states from before the batch; otherwise the script reads what it holds.
            projected_offset: booking records before this offset of the bookings topic are surely projected.
        """
        ...

    def forget(self, names: Collection[str]) -> None:
        """Forgets bookings; they are loaded again when they are next needed."""
        ...


async def run_here(work: Callable[..., Any], *given: Any) -> Any:
    """Calls a function on the thread of the event loop, which waits."""
    return work(*given)


class CoreOptions(NamedTuple):
    """What a core is made for."""

    partition: int
    partitions: int
    rules: Rules
    cached_bookings: Callable[[], int]
    """How many bookings it may hold in memory."""
    run: Callable[..., Awaitable[Any]] = run_here
    """Runs a function that releases the interpreter's lock; `asyncio.to_thread` lets the event loop go on meanwhile."""
