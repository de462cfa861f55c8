"""Parses CloudEvents over HTTP, for devices without Kafka: structured, binary and batched mode."""

import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import orjson
from starlette.requests import Request

from schemas.decoding.explain import decode, decode_booking
from schemas.events import BATCH, DATA, MAX_EVENTS, STRUCTURED, Booking, BookingGone, DeadLetter, Event, Reason, Topic
from schemas.query.violations import Rule, Violation
from worker.durations import micros
from worker.settings import Settings
from worker.web.errors import Invalid, Refused
from worker.web.http.bodies import Bodies, is_json, media_type, parse_json, write_json
from worker.web.permissions import Published

_PREFIX = "ce-"
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL).fullmatch
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL).sub


class Incoming(NamedTuple):
    """A valid event as JSON in structured mode."""

    topic: Topic
    booking_id: str
    value: bytes
    published: Published


async def read_events(request: Request, bodies: Bodies, settings: Settings) -> list[Incoming]:
    """The events of a request, in order.

    Raises:
        ApiError: the request is in none of the three modes, or has invalid events, all of which are named (400).
    """
    kind = media_type(request)
    body = await bodies.read(request)
    return await bodies.off_loop(len(body), _read, request, kind, body, settings)


def _read(request: Request, kind: str, body: bytearray, settings: Settings) -> list[Incoming]:
    if kind == STRUCTURED:
        events: Sequence[tuple[str, Any]] = [("", parse_json(body))]
    elif kind == BATCH:
        events = [(f"{index}.", event) for index, event in enumerate(_batch(body))]
    elif any(name.startswith(_PREFIX) for name in request.headers):
        events = [("", _binary(request, body, kind))]
    else:
        accepted = f"{STRUCTURED}, {BATCH}, or ce- headers with application/json"
        raise Refused(400, "CONTENT_TYPE_NOT_SUPPORTED", f"send CloudEvents: {accepted}", {"contentType": kind[:100]})
    return _validate(events, settings)


def _validate(events: Sequence[tuple[str, Any]], settings: Settings) -> list[Incoming]:
    now = time.time_ns() // 1_000_000
    incoming: list[Incoming] = []
    violations: list[Violation] = []
    for where, document in events:
        value = _encode(document, where)
        topic, decoded = _decode(document, value, now, settings)
        if isinstance(decoded, DeadLetter):
            violations.append(_violation(where, decoded))
        else:
            session_id = decoded.session_id if isinstance(decoded, Event) else ""
            published = Published(where, document["type"], document["source"], decoded.booking_id, session_id)
            incoming.append(Incoming(topic, decoded.booking_id, value, published))
    if violations:
        raise Invalid(violations)
    return incoming


def _decode(
    document: Any, value: bytes, now_ms: int, settings: Settings
) -> tuple[Topic, Event | Booking | BookingGone | DeadLetter]:
    kind = document.get("type") if isinstance(document, dict) else None
    if isinstance(kind, str) and kind in DATA[Topic.BOOKINGS]:
        return Topic.BOOKINGS, decode_booking(value, ())
    decoded = decode(value, (), now_ms, max_age=micros(settings.max_event_age))
    if isinstance(decoded, DeadLetter) and decoded.reason is Reason.UNKNOWN_TYPE:
        all_types = ", ".join(name for types in DATA.values() for name in types)
        decoded = decoded._replace(detail=f"type: is not one of {all_types}")
    return Topic.EVENTS, decoded


def _violation(where: str, dead_letter: DeadLetter) -> Violation:
    field, _, detail = dead_letter.detail.partition(": ")
    return Violation(f"{where}{field}", detail, dead_letter.reason.value)


def _batch(body: bytearray) -> list[Any]:
    events = parse_json(body)
    if not isinstance(events, list):
        raise Refused(400, "MALFORMED_BATCH", "a batch is a JSON array of events")
    if len(events) > MAX_EVENTS:
        raise Refused(400, "TOO_MANY_EVENTS", f"a batch has at most {MAX_EVENTS} events", {"maxEvents": MAX_EVENTS})
    return events


def _binary(request: Request, body: bytearray, kind: str) -> dict[str, Any]:
    """The event of a request in binary mode, as a document of structured mode."""
    if kind and not is_json(kind):
        raise Refused(400, "CONTENT_TYPE_NOT_SUPPORTED", "send the data as application/json", {"contentType": kind[:100]})
    attributes: dict[str, Any] = {}
    for raw_name, raw in request.headers.raw:
        name = raw_name.decode("latin-1").lower()
        if not name.startswith(_PREFIX):
            continue
        text = _attribute(name, raw)
        if name[3:] == "data" or name[3:] in attributes:
            raise Refused(400, "MALFORMED_HEADER", f"{name}: send each attribute once, and the data as the body")
        attributes[name[3:]] = text
    return {**attributes, "data": parse_json(body)}


def _attribute(name: str, raw: bytes) -> str:
    """The value of a header: unquoted if it is quoted, then percent-decoded once."""
    if raw[:1] == b'"':
        if _QUOTED(raw) is None:
            raise Refused(400, "MALFORMED_HEADER", f"{name}: begins with a quotation mark but does not end with one")
        raw = _ESCAPED(rb"\1", raw[1:-1])
    if _BAD_PERCENT(raw) is not None:
        raise Refused(
            400, "MALFORMED_HEADER", f"{name}: % must be followed by two hexadecimal digits; encode the sign itself as %25"
        )
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise Refused(400, "MALFORMED_HEADER", f"{name}: encode it in UTF-8, then percent-encode it") from None


def _encode(document: Any, where: str) -> bytes:
    try:
        return write_json(document)
    except orjson.JSONEncodeError:
        raise Invalid([Violation(where.rstrip(".") or "value", "is nested too deeply", Rule.TOO_DEEP)]) from None
