"""Records that are sent again in their original form: the headers they keep, and how a booking record is packed for that."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import msgpack

from schemas.events import OFFSET_HEADER, RECEIVED_HEADER, REPLAYS_HEADER
from worker.domain.booking_state import Place
from worker.domain.rows import original_of, place_of

Headers = list[tuple[str, bytes | None]]

#: Headers with the first reception and offset of a record; whoever sends it again sets them anew.
POSITION_HEADERS = frozenset({RECEIVED_HEADER, OFFSET_HEADER})
#: A compressed record batch of 2 MiB may hold far larger records; a copy with more headers might always be refused.
HEADERS_LIMIT = 32 * 1024
#: A CloudEvent in binary mode needs these, and a replay the last; they are kept first.
_NEEDED = frozenset({"ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type", REPLAYS_HEADER})
#: Digits of the largest offset.
_OFFSET_DIGITS = 19


class KeptRecord(NamedTuple):
    """The current record of a booking, to append it again."""

    booking_id: str
    place: Place
    original: bytes
    """See `pack_original`."""


def kept_headers(headers: Iterable[tuple[str, bytes | None]], without: Collection[str] = POSITION_HEADERS) -> Headers:
    """The headers except those named ``without`` (in lower case), in their order, as many as fit `HEADERS_LIMIT`."""
    kept, size = [], 0
    candidates = [(index, name, content) for index, (name, content) in enumerate(headers) if name.lower() not in without]
    for index, name, content in sorted(candidates, key=lambda header: header[1].lower() not in _NEEDED):
        length = len(name) + len(content or b"")
        if size + length <= HEADERS_LIMIT:
            size += length
            kept.append((index, name, content))
    return [(name, content) for _, name, content in sorted(kept, key=lambda header: header[0])]


def first_offset(headers: Sequence[tuple[str, bytes | None]], offset: int) -> int:
    """The offset at which a record of the bookings topic, read at ``offset``, was first appended to its partition."""
    for name, content in headers:
        if name == OFFSET_HEADER and content is not None and content.isdigit() and len(content) <= _OFFSET_DIGITS:
            offset = min(offset, int(content))
    return offset


def pack_original(headers: Iterable[tuple[str, bytes | None]], value: bytes | None) -> bytes:
    """Packs what is needed to append a record of the bookings topic again."""
    return msgpack.encode((kept_headers(headers), value))


unpack_original = msgpack.Decoder(tuple[Headers, bytes | None]).decode
"""(headers, value) of `pack_original`."""


def overtaken(last_places: Mapping[str, Place], rows: Iterable[bytes | None]) -> Iterator[KeptRecord]:
    """The current records of bookings whose last record in the topic is another one. They are appended again.

    Args:
        last_places: by booking, the place of the last record with the booking's key that was read and stored.
        rows: the rows of these bookings, None if there is none.
    """
    for (name, last), row in zip(last_places.items(), rows, strict=True):
        if row is not None:
            place = place_of(row)
            # a current record that was read later is redelivered in a later batch, and is the last one then
            if place.read_at < last.read_at and place[:2] != last[:2]:
                yield KeptRecord(name, place, original_of(row))


#: The original of a null value, which makes its booking unknown.
NULL = pack_original((), None)
