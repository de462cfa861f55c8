"""Events of the events and bookings topics: CloudEvents 1.0 with typed data, see `schemas/README.md`.

The schemas for pydantic are ``TypedDict``s in a union discriminated by ``type``: a validated dict is used at once and dropped.
"""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Literal, NamedTuple, NotRequired

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter
from pydantic_core import PydanticCustomError, PydanticKnownError
from typing_extensions import TypedDict

from schemas import ids
from schemas.attendance import AttendanceStatus

MAX_EVENT_BYTES = 64 * 1024
MAX_BOOKING_BYTES = 512 * 1024

#: Media types of an event and of a batch over HTTP; the first is also that of a structured record.
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
#: Events of a batch.
MAX_EVENTS = 1000

RECEIVED_HEADER = "attendance-received"
BACKFILL_HEADER = "attendance-backfill"
"""Header of a record that an operator published again, or late: the id of the operation."""
OFFSET_HEADER = "attendance-offset"
"""Header of a booking's record that a worker appended again: the offset of the original record in its partition."""

MIRRORED_HEADER = "attendance-mirrored"
"""Header of a record that was copied from the topics of another prefix: that prefix."""

TRACEPARENT_HEADER = "traceparent"
"""Header of a dead letter, and name of the attribute of an event: the W3C trace context, if the event has one."""
REPLAYS_HEADER = "attendance-replays"
"""Header of a dead letter that was replayed: how often. It stays on the dead letter that the record may become again."""


class Topic(StrEnum):
    """The topics that a worker reads. Each event type belongs to one of them."""

    EVENTS = "events"
    BOOKINGS = "bookings"


class EventType(StrEnum):
    """Every CloudEvents ``type`` that is accepted."""

    CHECK_IN = "attendance.check_in"
    NO_SHOW = "attendance.no_show"
    SET = "attendance.set"
    PARTICIPANT_SCANNED = "attendance.participant_scanned"
    CLEARED = "attendance.cleared"
    DELETED = "attendance.deleted"
    BOOKING_ERASED = "booking.erased"
    BOOKING_UPSERTED = "booking.upserted"
    BOOKING_DELETED = "booking.deleted"


class Reason(StrEnum):
    """Why a record is a dead letter: the first reason that applies, in this order."""

    TOO_LARGE = "too-large"
    INVALID_JSON = "invalid-json"
    INVALID_ENVELOPE = "invalid-envelope"
    UNKNOWN_TYPE = "unknown-type"
    INVALID_FIELD = "invalid-field"
    TIME_TOO_OLD = "time-too-old"


class Event(NamedTuple):
    """A decoded event of the events topic. Times are microseconds since the epoch, UTC."""

    type: str
    booking_id: str
    session_id: str
    """Empty for ``booking.erased``, which concerns every session."""
    time: int
    source: str
    id: str
    status: str
    """The status of an ``attendance.set``; empty for other types."""
    number: int | None
    """``numberOfAttendees``; None if left out."""
    participant_id: str
    received: int


class Window(NamedTuple):
    """When a session takes place as one booking lists it: microseconds since the epoch, None where unknown."""

    starts: int | None
    ends: int | None


def widest(one: Window | None, other: Window) -> Window:
    """The window of a session that is listed twice; None: it was not listed before."""
    if one is None:
        return other
    starts = [t for t in (one.starts, other.starts) if t is not None]
    ends = [t for t in (one.ends, other.ends) if t is not None]
    return Window(min(starts, default=None), max(ends, default=None))


def start_of(session_id: str, window: Window | None) -> tuple[bool, int, str]:
    """The sort key of sessions: by start, those without a known start last, then by id."""
    starts = window.starts if window else None
    return starts is None, starts or 0, session_id


def in_order(sessions: dict[str, Window]) -> dict[str, Window]:
    """The sessions sorted by `start_of`, the order in which a booking holds them."""
    return dict(sorted(sessions.items(), key=lambda item: start_of(*item)))


class Booking(NamedTuple):
    """Reference data: the latest state of a booking in the booking system, joined by ``booking_id``."""

    booking_id: str
    participants: int
    walk_ins_allowed: bool
    canceled: bool
    sessions: dict[str, Window] | None
    """Sorted by `in_order`; None if the booking does not list its sessions."""
    time: int
    """The CloudEvent's time."""


class BookingGone(NamedTuple):
    """The booking was deleted: ``booking.deleted`` or a null value."""

    booking_id: str


class DeadLetter(NamedTuple):
    """A record that cannot be used: the reason, and a sentence that names the field and the fix."""

    reason: Reason
    detail: str


#: Our own error type, beside those of pydantic.
CONTROL_CHARACTER: Literal["control_character"] = "control_character"


def _without_controls(text: str) -> str:
    if ids.find_forbidden(text):
        raise PydanticCustomError(CONTROL_CHARACTER, "contains a control character")
    return text


def _normalised(normalise: Callable[[str], str | None], max_length: int) -> Callable[[str], str]:
    """A validator that normalises an id, and raises an error of pydantic for a text that is not an id."""

    def validate(text: str) -> str:
        normalised = normalise(text)
        if normalised is not None:
            return normalised
        if not ids.trimmed(_without_controls(text)):
            raise PydanticKnownError("string_too_short", {"min_length": 1})
        raise PydanticKnownError("string_too_long", {"max_length": max_length})

    return validate


def _id_schema(max_length: int) -> dict[str, Any]:
    """JSON Schema of an id; its length counts after normalisation by `ids`."""
    return {"minLength": 1, "maxLength": max_length, "pattern": ids.NO_CONTROL_PATTERN}


_BookingId = Annotated[
    str,
    Field(strict=True, json_schema_extra=_id_schema(ids.MAX_BOOKING_ID)),
    AfterValidator(_normalised(ids.booking_id, ids.MAX_BOOKING_ID)),
]
_SessionId = Annotated[
    str,
    Field(strict=True, json_schema_extra=_id_schema(ids.MAX_SESSION_ID)),
    AfterValidator(_normalised(ids.session_id, ids.MAX_SESSION_ID)),
]
_ParticipantId = Annotated[
    str,
    Field(strict=True, json_schema_extra=_id_schema(ids.MAX_PARTICIPANT_ID)),
    AfterValidator(_normalised(ids.participant_id, ids.MAX_PARTICIPANT_ID)),
]
_Name = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=ids.MAX_NAME),
    Field(json_schema_extra={"pattern": ids.NO_CONTROL_PATTERN}),
    AfterValidator(_without_controls),
]
_Time = Annotated[str, Field(strict=True, json_schema_extra={"format": "date-time"})]
_Number = Annotated[int, Field(strict=True, ge=0, le=ids.MAX_ATTENDEES)]
_Participants = Annotated[int, Field(strict=True, ge=1, le=ids.MAX_PARTICIPANTS)]
_Flag = Annotated[bool, Field(strict=True)]


class BookingData(TypedDict):
    bookingId: _BookingId


class SessionData(BookingData):
    sessionId: _SessionId


class CheckInData(SessionData):
    numberOfAttendees: NotRequired[_Number | None]


class SetData(SessionData):
    status: AttendanceStatus
    numberOfAttendees: NotRequired[_Number | None]


class ScannedData(SessionData):
    participantId: _ParticipantId


class ListedSession(TypedDict):
    sessionId: _SessionId
    startsAt: NotRequired[_Time | None]
    endsAt: NotRequired[_Time | None]


class UpsertedData(BookingData):
    numberOfParticipants: _Participants
    walkInsAllowed: NotRequired[_Flag | None]
    serviceType: NotRequired[Literal["APPOINTMENT", "CLASS", "COURSE"] | None]
    status: NotRequired[Literal["CONFIRMED", "CANCELED"] | None]
    sessions: NotRequired[list[ListedSession] | None]


class Attributes(TypedDict):
    """The attributes of an event of any type."""

    specversion: Literal["1.0"]
    id: _Name
    source: _Name
    time: _Time


class Envelope(Attributes):
    type: Annotated[str, StringConstraints(strict=True, min_length=1)]


class CheckedIn(Attributes):
    type: Literal["attendance.check_in"]
    data: CheckInData


class NoShow(Attributes):
    type: Literal["attendance.no_show"]
    data: SessionData


class AttendanceSet(Attributes):
    type: Literal["attendance.set"]
    data: SetData


class ParticipantScanned(Attributes):
    type: Literal["attendance.participant_scanned"]
    data: ScannedData


class Cleared(Attributes):
    type: Literal["attendance.cleared"]
    data: SessionData


class AttendanceDeleted(Attributes):
    type: Literal["attendance.deleted"]
    data: SessionData


class BookingErased(Attributes):
    type: Literal["booking.erased"]
    data: BookingData


class BookingUpserted(Attributes):
    type: Literal["booking.upserted"]
    data: UpsertedData


class BookingDeleted(Attributes):
    type: Literal["booking.deleted"]
    data: BookingData


AttendanceEvent = Annotated[
    CheckedIn | NoShow | AttendanceSet | ParticipantScanned | Cleared | AttendanceDeleted | BookingErased,
    Field(discriminator="type"),
]
BookingEvent = Annotated[BookingUpserted | BookingDeleted, Field(discriminator="type")]

ENVELOPE = TypeAdapter(Envelope)
DATA: dict[Topic, dict[str, TypeAdapter[BookingData]]] = {
    Topic.EVENTS: {
        EventType.CHECK_IN: TypeAdapter(CheckInData),
        EventType.NO_SHOW: TypeAdapter(SessionData),
        EventType.SET: TypeAdapter(SetData),
        EventType.PARTICIPANT_SCANNED: TypeAdapter(ScannedData),
        EventType.CLEARED: TypeAdapter(SessionData),
        EventType.DELETED: TypeAdapter(SessionData),
        EventType.BOOKING_ERASED: TypeAdapter(BookingData),
    },
    Topic.BOOKINGS: {
        EventType.BOOKING_UPSERTED: TypeAdapter(UpsertedData),
        EventType.BOOKING_DELETED: TypeAdapter(BookingData),
    },
}
