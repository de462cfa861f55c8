"""CloudEvents over HTTP for devices that do not speak Kafka: structured, binary and batched."""

import re
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import orjson
from starlette.requests import Request

from schemas.decoding.explain import decode, decode_booking
from schemas.events import DATA, Booking, BookingGone, DeadLetter, Event, Reason, Topic
from schemas.query.violations import Rule, Violation
from worker.settings import Settings, micros
from worker.topics import TopicNames
from worker.web.errors import invalid, refused
from worker.web.http.bodies import Bodies, is_json, media_type, parse_json, write_json
from worker.web.permissions import Published

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
MAX_EVENTS = 1000
_PREFIX = "ce-"
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL).fullmatch
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL).sub


class Incoming(NamedTuple):
    """An event that may be published, as JSON in structured mode."""

    topic: str
    booking_id: str
    value: bytes
    published: Published


async def read_events(request: Request, bodies: Bodies, settings: Settings) -> list[Incoming]:
    """The events of a request, in its order.

    Raises:
        ApiError: the request is none of the three modes, or an event cannot be used: 400 that names every one.
    """
    kind = media_type(request)
    body = await bodies.read(request)
    return await bodies.apart(len(body), _read, request, kind, body, settings)


def _read(request: Request, kind: str, body: bytearray, settings: Settings) -> list[Incoming]:
    if kind == STRUCTURED:
        found: Sequence[tuple[str, Any]] = [("", parse_json(body))]
    elif kind == BATCH:
        found = [(f"{index}.", each) for index, each in enumerate(_batch(body))]
    elif any(name.startswith(_PREFIX) for name in request.headers):
        found = [("", _binary(request, body, kind))]
    else:
        accepted = f"{STRUCTURED}, {BATCH}, or ce- headers with application/json"
        raise refused(400, "CONTENT_TYPE_NOT_SUPPORTED", f"send CloudEvents: {accepted}", {"contentType": kind[:100]})
    return _judged(found, settings)


def _judged(found: Sequence[tuple[str, Any]], settings: Settings) -> list[Incoming]:
    topics, now = TopicNames.of(settings.topic_prefix), time.time_ns() // 1_000_000
    good: list[Incoming] = []
    bad: list[Violation] = []
    for where, document in found:
        value = _written(document, where)
        topic, said = _decoded(document, value, now, settings)
        if isinstance(said, DeadLetter):
            bad.append(_violation(where, said))
        else:
            session_id = said.session_id if isinstance(said, Event) else ""
            published = Published(where, document["type"], document["source"], said.booking_id, session_id)
            name = topics.bookings if topic is Topic.BOOKINGS else topics.events
            good.append(Incoming(name, said.booking_id, value, published))
    if bad:
        raise invalid(bad)
    return good


def _decoded(
    document: Any, value: bytes, now_ms: int, settings: Settings
) -> tuple[Topic, Event | Booking | BookingGone | DeadLetter]:
    kind = document.get("type") if isinstance(document, dict) else None
    if isinstance(kind, str) and kind in DATA[Topic.BOOKINGS]:
        return Topic.BOOKINGS, decode_booking(value, ())
    said = decode(value, (), now_ms, max_age=micros(settings.max_event_age))
    if isinstance(said, DeadLetter) and said.reason is Reason.UNKNOWN_TYPE:
        every = ", ".join(name for types in DATA.values() for name in types)
        said = said._replace(detail=f"type: not one of {every}")
    return Topic.EVENTS, said


def _violation(where: str, letter: DeadLetter) -> Violation:
    field, _, detail = letter.detail.partition(": ")
    return Violation(f"{where}{field}", detail, letter.reason.value)


def _batch(body: bytearray) -> list[Any]:
    found = parse_json(body)
    if not isinstance(found, list):
        raise refused(400, "MALFORMED_BATCH", "a batch is a JSON array of events")
    if len(found) > MAX_EVENTS:
        raise refused(400, "TOO_MANY_EVENTS", f"a batch has at most {MAX_EVENTS} events", {"maxEvents": MAX_EVENTS})
    return found


def _binary(request: Request, body: bytearray, kind: str) -> dict[str, Any]:
    """The event as structured mode writes it."""
    if kind and not is_json(kind):
        raise refused(400, "CONTENT_TYPE_NOT_SUPPORTED", "send the data as application/json", {"contentType": kind[:100]})
    attributes: dict[str, Any] = {}
    for raw_name, raw in request.headers.raw:
        name = raw_name.decode("latin-1").lower()
        if not name.startswith(_PREFIX):
            continue
        text = _attribute(name, raw)
        if name[3:] == "data" or name[3:] in attributes:
            raise refused(400, "MALFORMED_HEADER", f"{name}: give each attribute once, and the data as the body")
        attributes[name[3:]] = text
    return {**attributes, "data": parse_json(body)}


def _attribute(name: str, raw: bytes) -> str:
    """The value of a header: out of its quotes, where it has some, then percent-decoded once."""
    if raw[:1] == b'"':
        if _QUOTED(raw) is None:
            raise refused(400, "MALFORMED_HEADER", f"{name}: begins with a quotation mark, end it with one")
        raw = _ESCAPED(rb"\1", raw[1:-1])
    if _BAD_PERCENT(raw) is not None:
        raise refused(400, "MALFORMED_HEADER", f"{name}: a % begins two hexadecimal digits, write %25 for the sign itself")
    try:
        return unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        raise refused(400, "MALFORMED_HEADER", f"{name}: write it in UTF-8, percent-encoded") from None


def _written(document: Any, where: str) -> bytes:
    try:
        return write_json(document)
    except orjson.JSONEncodeError:
        raise invalid([Violation(where.rstrip(".") or "value", "is nested too deeply", Rule.TOO_DEEP)]) from None
