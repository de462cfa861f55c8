"""Takes the records of a fetch as the client's decoder makes them, without topic and partition.

aiokafka makes a `ConsumerRecord` of each record in Python, 1.7 us; decoding one takes 0.6. Here aiokafka's loop over the
records of a batch sees pieces of the batch, as if each were a record, so that it runs once for many records. Which batches are
read, aiokafka still decides: those of aborted transactions and the transaction markers are not.
"""

from collections.abc import Iterator
from itertools import chain, islice
from typing import Any, NamedTuple

#: Batches of up to so many records yield these themselves: a batch in pieces costs 4.6 us more, a record by itself 0.25.
FEW = 16


class _Piece(NamedTuple):
    """Records of a batch, in the place of one record."""

    offset: int
    """Of the last record."""
    records: list[Any]


class _Pieces:
    """The record batches of a fetch, in the place of the client's reader: each yields pieces of at most ``at_once`` records.

    `take_plain` sets that before each piece, so that it never takes more than it was asked for. A batch of
    up to `FEW` records yields these.
    """

    def __init__(self, batches: Any) -> None:
        self._batches = batches
        self.at_once = 0

    def has_next(self) -> bool:
        return bool(self._batches.has_next())

    def next_batch(self) -> Any:
        batch = self._batches.next_batch()
        # batches of an old format do not say how many they hold
        is_small = getattr(batch, "last_offset_delta", FEW) < FEW
        return batch if is_small or batch.is_control_batch else _Batch(batch, self)


class _Batch:
    """A record batch that yields its records as pieces, and is otherwise the client's."""

    def __init__(self, batch: Any, reader: _Pieces) -> None:
        self._batch, self._reader = batch, reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[_Piece]:
        decoded = chain(self._batch)  # whose own iterator can be asked for only once
        while True:
            records: list[Any] = []
            try:
                records.extend(islice(decoded, self._reader.at_once))
            finally:
                # of a batch that cannot be decoded, those before the error too
                if records:
                    yield _Piece(records[-1].offset, records)
            if not records:
                return


def make_plain(source: Any) -> None:
    """Prepares a fetch, an aiokafka `PartitionRecords` of which nothing is read yet, for `take_plain`."""
    source._records, source._consumer_record = _Pieces(source._records), _as_decoded  # noqa: SLF001


def _as_decoded(_: Any, decoded: Any) -> Any:
    return decoded


def take_plain(source: Any, records: list[Any], max_records: int) -> None:
    """Adds the next records of a fetch until there are so many; raises what the client's decoder does."""
    begin = source.next_fetch_offset
    while len(records) < max_records:
        source._records.at_once = max_records - len(records)  # noqa: SLF001
        piece = next(source, None)
        if type(piece) is not _Piece:
            if piece is None:
                return
            records.append(piece)
            continue
        # a seek may have led into the middle of a batch
        records += piece.records if piece.records[0].offset >= begin else [x for x in piece.records if x.offset >= begin]
