"""What can be read of a record that cannot be used: where it comes from, and which booking it concerns."""

from collections.abc import Sequence
from typing import Any

import orjson

from schemas import ids
from schemas.decoding.bindings import is_binary, unwrapped
from schemas.decoding.explain import booking_of_key

Headers = Sequence[tuple[str, bytes | None]]


def document_of(value: bytes | None) -> dict[str, Any] | None:
    """The JSON object of a record's value; None if it has none."""
    try:
        document = orjson.loads(unwrapped(value or b""))
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def source_of(document: dict[str, Any] | None, headers: Headers) -> str | None:
    """The source of an event, from its envelope or its headers; None if it cannot be read."""
    for name, content in headers:
        if name.lower() == "ce_source":
            return (content or b"").decode(errors="replace")
    source = (document or {}).get("source")
    return source if isinstance(source, str) else None


def booking_of(document: dict[str, Any] | None, headers: Headers, key: bytes | None) -> str | None:
    """The normalised bookingId of an event, from its data, otherwise from the record's key; None if it cannot be read."""
    data = document if is_binary(headers) else (document or {}).get("data")
    booking_id = data.get("bookingId") if isinstance(data, dict) else None
    normal = ids.booking_id(booking_id) if isinstance(booking_id, str) else None
    return normal or booking_of_key(key)
