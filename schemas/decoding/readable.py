"""What can be read of a record that cannot be used: where it comes from, and which booking it concerns."""

import re
from collections.abc import Sequence
from typing import Any

import orjson

from schemas import ids
from schemas.decoding.bindings import is_binary, unwrapped
from schemas.decoding.explain import booking_of_key
from schemas.events import MAX_EVENT_BYTES, TRACEPARENT_HEADER

_is_traceparent = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch

#: Without the name, and without an escape that may hide it, a document need not be parsed.
_may_name_trace = re.compile(rb"\\|%b" % TRACEPARENT_HEADER.encode()).search

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


def traceparent_of(value: bytes | None, headers: Headers) -> str | None:
    """The W3C trace context of an event; None if it has none that is well-formed.

    Looked for in the header of OpenTelemetry, in the CloudEvent's attribute (extension "distributed tracing") in binary mode,
    and in structured mode.
    """
    found = {name.lower(): (content or b"").decode(errors="replace") for name, content in headers}
    texts: list[Any] = [found.get(TRACEPARENT_HEADER), found.get(f"ce_{TRACEPARENT_HEADER}")]
    if value is not None and len(value) <= MAX_EVENT_BYTES and _may_name_trace(value) and not is_binary(headers):
        texts.append((document_of(value) or {}).get(TRACEPARENT_HEADER))
    return next((text for text in texts if isinstance(text, str) and _is_traceparent(text)), None)


def booking_of(document: dict[str, Any] | None, headers: Headers, key: bytes | None) -> str | None:
    """The normalised bookingId of an event, from its data, otherwise from the record's key; None if it cannot be read."""
    data = document if is_binary(headers) else (document or {}).get("data")
    booking_id = data.get("bookingId") if isinstance(data, dict) else None
    normal = ids.booking_id(booking_id) if isinstance(booking_id, str) else None
    return normal or booking_of_key(key)
