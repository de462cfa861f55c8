"""Who may publish which event over HTTP: by the scopes of the token, and by the source prefix that it is bound to.

The check of `attendance.cleared` reads the attendance when the request arrives; an event of another device may still be
applied between the check and the clear.
"""

import asyncio
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple
from unicodedata import normalize
from urllib.parse import unquote

from schemas.attendance import attendance_id, guid
from schemas.events import EventType
from worker.read_model.reader import AttendanceReader
from worker.web.auth import Scope
from worker.web.errors import ApiError, Refused

#: The source of the events that the API itself publishes for sets and deletes.
API_SOURCE = "/api"
_INVISIBLE = re.compile(r"[\s\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]").sub
_DOTS = frozenset({".", ".."})
_OF_DEVICES = frozenset({EventType.CHECK_IN, EventType.NO_SHOW, EventType.PARTICIPANT_SCANNED})
_OF_BOOKING_SYSTEMS = frozenset({EventType.BOOKING_UPSERTED, EventType.BOOKING_DELETED})
#: `POST /v1/events` needs one of these.
PUBLISHING = (Scope.PUBLISH, Scope.INGEST, Scope.MANAGE)


class Holder(NamedTuple):
    """The holder of the token with which a request is sent."""

    name: str
    """The name of the token; empty without tokens."""
    scopes: frozenset[str]
    source: str | None
    """The source prefix that the token is bound to."""


class Published(NamedTuple):
    """The fields of an event that decide who may publish it."""

    where: str
    """The event's path in the request: empty, or its index in the batch and a dot."""
    type: str
    source: str
    booking_id: str
    session_id: str


class Forbidden(NamedTuple):
    """A field of an event with a value that the holder may not publish."""

    field: str
    description: str


def is_within(source: str, prefix: str) -> bool:
    """Whether a source is the prefix itself or continues it after a slash, without a step up (``..``)."""
    if source == prefix:
        return True
    root = f"{prefix.rstrip('/')}/"
    return source.startswith(root) and not _DOTS.intersection(_segments(source[len(root) :]))


def names_the_api(source: str) -> bool:
    """Whether a source is that of the API or below it, also after percent-decoding and normalisation as a path."""
    first, *rest = _segments(source)
    path = [first]
    for segment in rest:
        if segment == "..":
            path = path[:1] + path[1:-1]
        elif segment not in ("", "."):
            path.append(segment)
    return path[:1] == [""] and path[1:2] == ["api"]


def _segments(path: str) -> list[str]:
    """The segments between slashes, percent-decoded, case-folded, without invisible characters."""
    return _INVISIBLE("", normalize("NFKC", unquote(path))).casefold().split("/")


async def check_publish(holder: Holder, events: Sequence[Published], reader: AttendanceReader) -> None:
    """Checks that a holder may publish all of these events.

    Raises:
        ApiError: 403 that names each event that the holder may not publish.
        ReaderError, redis.RedisError: an attendance to clear cannot be read.
    """
    forbidden = [problem for event in events if (problem := _forbidden(holder, event)) is not None]
    if not forbidden and holder.source is not None and Scope.MANAGE not in holder.scopes:
        forbidden = await _clears_of_others(
            holder.source, [event for event in events if event.type == EventType.CLEARED], reader
        )
    if forbidden:
        raise _refusal(forbidden)


def _forbidden(holder: Holder, event: Published) -> Forbidden | None:
    if names_the_api(event.source):
        return Forbidden(
            f"{event.where}source", f"{API_SOURCE} is reserved for the API: send the source of the device or system"
        )
    if holder.source is not None and not is_within(event.source, holder.source):
        return Forbidden(f"{event.where}source", f"the token is bound to the source prefix {holder.source}")
    if Scope.MANAGE in holder.scopes:
        return None
    if event.type in _OF_DEVICES:
        return _require(Scope.PUBLISH, holder.scopes, event)
    if event.type in _OF_BOOKING_SYSTEMS:
        return _require(Scope.INGEST, holder.scopes, event)
    if event.type == EventType.CLEARED and Scope.PUBLISH in holder.scopes:
        if holder.source is not None:
            return None
        return Forbidden(f"{event.where}type", f"{event.type} needs the scope manage, or publish bound to a source prefix")
    return _require(Scope.MANAGE, holder.scopes, event)


def _require(needed: Scope, scopes: Collection[str], event: Published) -> Forbidden | None:
    return None if needed in scopes else Forbidden(f"{event.where}type", f"{event.type} needs the scope {needed}")


async def _clears_of_others(prefix: str, cleared: Sequence[Published], reader: AttendanceReader) -> list[Forbidden]:
    """The events that would clear an attendance which was last changed by a source outside the prefix."""
    shown = await asyncio.gather(*(reader.get(guid(attendance_id(each.booking_id, each.session_id))) for each in cleared))
    return [
        Forbidden(
            f"{event.where}type",
            f"the attendance was last changed by a source outside {prefix}: clearing it needs the scope manage",
        )
        for event, attendance in zip(cleared, shown, strict=True)
        if attendance is not None and (attendance["source"] == API_SOURCE or not is_within(attendance["source"], prefix))
    ]


def _refusal(forbidden: Sequence[Forbidden]) -> ApiError:
    message = "; ".join(f"{each.field}: {each.description}" for each in forbidden[:3])
    events = [each._asdict() for each in forbidden]
    return Refused(403, "NOT_PERMITTED", f"nothing was published: {message}", {"events": events})
