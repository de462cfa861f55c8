"""Records that are sent on as they came: which headers they keep, and how a booking's record is kept to append it again."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import msgpack

from schemas.events import OFFSET_HEADER, RECEIVED_HEADER
from worker.domain.booking_state import Place
from worker.domain.rows import original_of, place_of

Headers = list[tuple[str, bytes | None]]

#: Headers that say when and where a record first came: whoever sends it on writes them anew.
POSITION_HEADERS = frozenset({RECEIVED_HEADER, OFFSET_HEADER})
#: A record batch of 2 MiB may hold far more when it is compressed; a copy with more headers might be refused for ever.
HEADERS_LIMIT = 32 * 1024
#: Without these a record in binary mode is none; they are kept first.
_NEEDED = frozenset({"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type"})
#: Digits of the largest offset.
_OFFSET_DIGITS = 19


class KeptRecord(NamedTuple):
    """A booking's record that holds, as it is appended again."""

    booking_id: str
    place: Place
    original: bytes
    """See `pack_original`."""


_decode = msgpack.Decoder(tuple[list[tuple[str, bytes | None]], bytes | None]).decode


def kept_headers(headers: Iterable[tuple[str, bytes | None]], without: Collection[str] = POSITION_HEADERS) -> Headers:
    """The headers but those named ``without`` (in lower case), as many as fit `HEADERS_LIMIT`, in their order."""
    kept, size = [], 0
    wanted = [(at, name, content) for at, (name, content) in enumerate(headers) if name.lower() not in without]
    for at, name, content in sorted(wanted, key=lambda header: header[1].lower() not in _NEEDED):
        length = len(name) + len(content or b"")
        if size + length <= HEADERS_LIMIT:
            size += length
            kept.append((at, name, content))
    return [(name, content) for _, name, content in sorted(kept, key=lambda header: header[0])]


def first_offset(headers: Sequence[tuple[str, bytes | None]], offset: int) -> int:
    """Where a record of the bookings topic that was read at ``offset`` was first in its partition."""
    for name, content in headers:
        if name == OFFSET_HEADER and content is not None and content.isdigit() and len(content) <= _OFFSET_DIGITS:
            offset = min(offset, int(content))
    return offset


def pack_original(headers: Iterable[tuple[str, bytes | None]], value: bytes | None) -> bytes:
    """What it takes to append a record of the bookings topic again, in bytes."""
    return msgpack.encode((kept_headers(headers), value))


def unpack_original(packed: bytes) -> tuple[Headers, bytes | None]:
    """(headers, value) of `pack_original`."""
    return _decode(packed)


def overtaken(last_places: Mapping[str, Place], rows: Iterable[bytes | None]) -> Iterator[KeptRecord]:
    """The records that hold, of bookings whose last record in the topic is another one: they are to be appended again.

    Args:
        last_places: of the last record under a booking's key that was read and stored, by booking.
        rows: the rows of these bookings, None where there is none.
    """
    for (name, last), row in zip(last_places.items(), rows, strict=True):
        if row is not None:
            place = place_of(row)
            # one that was read further on comes again in a later batch, and is the last one then
            if place.read_at < last.read_at and not place.is_of(last):
                yield KeptRecord(name, place, original_of(row))


#: A null value, which leaves its booking unknown.
NULL = pack_original((), None)
