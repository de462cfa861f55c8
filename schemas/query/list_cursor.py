"""Cursors of the lists outside the query language: open alerts, bookings by noShowRate. Opaque text, always signed."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Annotated

from msgspec import DecodeError, Meta, Struct
from msgspec.msgpack import Decoder, Encoder

from schemas.ids import MAX_SESSION_ID
from schemas.query.signatures import is_signed, sign, unsigned

_MAX_LENGTH = 8_000


class ListCursor(Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Where a page of a list ended, and which list it was."""

    list: Annotated[str, Meta(max_length=20)]
    conditions: Annotated[tuple[Annotated[str, Meta(max_length=MAX_SESSION_ID)] | None, ...], Meta(max_length=6)]
    """The conditions of the request, in an order that each list defines."""
    score: float
    member: Annotated[bytes, Meta(max_length=1024)]


_encode = Encoder().encode
_decode = Decoder(ListCursor).decode


def encode_list_cursor(cursor: ListCursor, key: bytes) -> str:
    """The cursor as text, signed with the key."""
    return sign(urlsafe_b64encode(_encode(cursor)).rstrip(b"=").decode(), key)


def decode_list_cursor(text: str, key: bytes) -> ListCursor:
    """Decodes the text of `encode_list_cursor`.

    Raises:
        ValueError: the text is not a cursor, or was signed with another key.
    """
    if len(text) > _MAX_LENGTH or not is_signed(text, key):
        raise ValueError("not a cursor of this API")
    raw = unsigned(text)
    try:
        return _decode(urlsafe_b64decode(raw + "=" * (-len(raw) % 4)))
    except DecodeError as error:
        raise ValueError(str(error)) from None
