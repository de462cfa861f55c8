"""Models of requests and responses, for OpenAPI only: `worker.web.requests` and others validate requests, and responses are
written without validation. Tests compare them with the models.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import ConfigDict, Field, JsonValue
from typing_extensions import TypedDict

from schemas import ids
from schemas.alerts import AlertData, AlertKind
from schemas.attendance import Attendance, AttendanceStatus
from schemas.events import MAX_EVENTS, AttendanceEvent, BookingEvent, Reason
from worker.read_model.operations import State
from worker.read_model.query.roster import RosterState
from worker.web.requests import MAX_ENTRIES

_Id = Annotated[str, Field(min_length=1, max_length=ids.MAX_BOOKING_ID)]
_SessionId = Annotated[str, Field(min_length=1, max_length=ids.MAX_SESSION_ID)]
_Number = Annotated[int, Field(ge=0, le=ids.MAX_ATTENDEES)]


class ApplicationError(TypedDict):
    code: str
    description: str
    data: dict[str, JsonValue]


class FieldViolation(TypedDict):
    field: str
    description: str
    violatedRule: str


class FieldViolations(TypedDict):
    fieldViolations: list[FieldViolation]


class ApplicationErrorDetails(TypedDict):
    applicationError: ApplicationError


class ValidationErrorDetails(TypedDict):
    validationError: FieldViolations


class Problem(TypedDict):
    """The shape of every error response."""

    message: str
    details: ApplicationErrorDetails | ValidationErrorDetails


class AttendanceAnswer(TypedDict):
    attendance: Attendance


class ShownAttendance(TypedDict, total=False):
    """An attendance with the fields that were asked for; ``id`` is always included."""

    id: str
    bookingId: str
    sessionId: str
    status: AttendanceStatus
    numberOfAttendees: int
    updatedDate: str
    source: str


class Cursors(TypedDict):
    next: NotRequired[str]
    prev: NotRequired[str]


class PagingMetadata(TypedDict):
    count: int
    cursors: Cursors
    hasNext: bool


class QueryAnswer(TypedDict):
    attendances: list[ShownAttendance]
    pagingMetadata: PagingMetadata


class CountAnswer(TypedDict):
    count: int


class AttendanceToSet(TypedDict):
    """``eventId`` is an alias of ``sessionId``; one of them is required. Other fields of an attendance are ignored."""

    __pydantic_config__ = ConfigDict(  # type: ignore[misc]
        json_schema_extra={"anyOf": [{"required": ["sessionId"]}, {"required": ["eventId"]}]}
    )

    bookingId: _Id
    sessionId: NotRequired[_SessionId | None]
    eventId: NotRequired[_SessionId | None]
    status: AttendanceStatus
    numberOfAttendees: NotRequired[_Number | None]


class SetRequest(TypedDict):
    attendance: AttendanceToSet
    participantNotification: NotRequired[dict[str, Any] | None]


class BulkSetRequest(TypedDict):
    returnFullEntity: NotRequired[bool | None]
    attendanceDetails: Annotated[list[SetRequest], Field(min_length=1, max_length=MAX_ENTRIES)]


class BulkDeleteRequest(TypedDict):
    attendanceIds: Annotated[list[str], Field(min_length=1, max_length=MAX_ENTRIES)]


class ItemMetadata(TypedDict):
    id: NotRequired[str]
    originalIndex: int
    success: bool
    error: NotRequired[ApplicationError]


class BulkResult(TypedDict):
    item: NotRequired[Attendance]
    itemMetadata: ItemMetadata


class BulkActionMetadata(TypedDict):
    totalSuccesses: int
    totalFailures: int
    undetailedFailures: int


class BulkAnswer(TypedDict):
    results: list[BulkResult]
    bulkActionMetadata: BulkActionMetadata


class Nothing(TypedDict):
    """An empty object."""


class Accepted(TypedDict):
    accepted: int


IncomingEvent = AttendanceEvent | BookingEvent
IncomingBatch = Annotated[list[IncomingEvent], Field(max_length=MAX_EVENTS)]


class FreshnessShape(TypedDict):
    """``eventTime``: the newest effective time of an event that was applied, which never goes back; ``lag``: records not
    applied yet. null: unknown, without a worker or while Kafka does not answer it.
    """

    eventTime: str | None
    lag: int | None


class SessionTally(TypedDict):
    """The contract's session tally."""

    sessionId: str
    bookings: int
    attended: int
    notAttended: int
    notSet: int
    attendees: int
    expectedParticipants: int
    startsAt: str | None
    endsAt: str | None


class SessionAnswer(SessionTally):
    freshness: FreshnessShape


class SessionsAnswer(TypedDict):
    """There can be a next page although this one has fewer sessions than ``limit``, or none."""

    sessions: list[SessionTally]
    pagingMetadata: PagingMetadata
    freshness: FreshnessShape


class RosterBooking(TypedDict):
    """A booking at a session; ``expectedParticipants`` is 0 where the booking is unknown or canceled."""

    bookingId: str
    state: RosterState
    expectedParticipants: int
    attendance: Attendance | None


class RosterAnswer(TypedDict):
    bookings: list[RosterBooking]
    pagingMetadata: PagingMetadata
    freshness: FreshnessShape


class Arrivals(TypedDict):
    minute: str
    attendees: int


#: From the minute ``from`` to before the minute ``to``; minutes without arrivals are left out.
ArrivalsAnswer = TypedDict(
    "ArrivalsAnswer",
    {"sessionId": str, "from": str, "to": str, "arrivals": list[Arrivals], "freshness": FreshnessShape},
)


class DeviceEstimates(TypedDict):
    """Rolling estimates, begun anew when Redis is filled anew; null: not known yet."""

    eventsPerMinute: float
    """Of the last minute."""
    usualEventsPerMinute: float | None
    """Of about the last hour."""
    usualGapSeconds: float | None
    """Between its events, the median."""
    clockOffsetSeconds: float | None
    """Received - time, the median of its last events."""
    deadLetters: int
    """Of about the last hour."""
    lastDeadLetterReason: str | None
    lastDeadLetterAt: str | None
    lastSessionId: str | None
    sessions: list["DeviceSession"]
    """The sessions of its last events, the last one first."""


class DeviceSession(TypedDict):
    """How many events a source sent for a session, until it sends none for an hour."""

    sessionId: str
    events: int


class Device(TypedDict):
    """A source of events, and its newest event; ``eventTime`` is the effective time. Null: only dead letters are known."""

    source: str
    eventTime: str | None
    time: str | None
    received: str | None
    silentSeconds: float | None
    isSilent: bool
    """Whether it is silent for much longer than usual."""
    estimates: DeviceEstimates


class DevicesAnswer(TypedDict):
    """There can be a next page although this one has fewer devices than ``limit``."""

    devices: list[Device]
    pagingMetadata: PagingMetadata
    freshness: FreshnessShape


class BookingSummary(TypedDict):
    """The contract's booking summary."""

    bookingId: str
    attended: int
    notAttended: int
    notSet: int
    noShowRate: float
    longestNoShowRun: int


class BookingAnswer(BookingSummary):
    freshness: FreshnessShape


class BookingsAnswer(TypedDict):
    bookings: list[BookingSummary]
    pagingMetadata: PagingMetadata
    freshness: FreshnessShape


class AlertsAnswer(TypedDict):
    alerts: list[AlertData]
    pagingMetadata: PagingMetadata
    freshness: FreshnessShape


class TopicStatus(TypedDict):
    """Offsets: the next to apply, and the end of what can be read (Kafka's last stable offset).

    ``held``: records behind an open transaction; ``unreadable``: the offset of a record batch that cannot be read, and at
    which the partition stops.
    """

    offset: int
    end: int
    held: int
    unreadable: int | None


class PartitionStatus(TypedDict):
    """``hasWorker``: whether one has written within the last seconds; ``lag`` is null where it has not, or where Kafka has not
    answered it within the last seconds.
    """

    partition: int
    state: str
    hasWorker: bool
    lag: int | None
    eventTime: str | None
    events: TopicStatus
    bookings: TopicStatus
    writtenAt: str | None
    kafkaAnsweredAt: str | None


class PartitionProblem(TypedDict):
    """A problem that keeps partitions from making progress."""

    code: Literal["NO_WORKER", "KAFKA_AWAY", "UNREADABLE_BATCH", "REPAIRING", "BAD_EVENTS"]
    partitions: list[int]
    description: str


class BuildStatus(TypedDict):
    """A namespace that workers write beside the live one; what is null cannot be read by this version."""

    namespace: str
    state: Literal["loading", "filling", "kept"]
    operation: str
    tables: str
    partitions: int
    filledPartitions: int | None
    attendances: int | None
    lag: int | None


class StatusAnswer(TypedDict):
    """``rebuild``: SERVING, or REPAIRING while a partition is being filled. ``builds``: see `attendance rebuild`."""

    partitions: list[PartitionStatus]
    rebuild: Literal["SERVING", "REPAIRING"]
    builds: list[BuildStatus]
    problems: list[PartitionProblem]
    freshness: FreshnessShape


class OperationShape(TypedDict):
    """A long command of an operator; ``position`` and ``end`` are in the command's own terms. Files are not named."""

    id: str
    command: str
    state: State
    position: dict[str, Any]
    end: dict[str, Any]
    counts: dict[str, int]
    startedAt: str
    savedAt: str


class OperationsAnswer(TypedDict):
    operations: list[OperationShape]
    pagingMetadata: PagingMetadata
    freshness: FreshnessShape


class ExplainedEvent(TypedDict):
    """``by``: the offset of the event that counts in its place; ``explanation``: the verdict in words."""

    offset: int
    type: str
    id: str
    source: str
    time: str
    received: str
    effectiveTime: str
    status: NotRequired[AttendanceStatus]
    numberOfAttendees: NotRequired[int]
    participantId: NotRequired[str]
    counts: bool
    verdict: str
    by: int | None
    explanation: str


class ExplainedDeadLetter(TypedDict):
    """``namesSession``: false where the session cannot be read."""

    offset: int
    received: str
    reason: Reason
    detail: str
    namesSession: bool
    explanation: str


class ListedWindow(TypedDict):
    sessionId: str
    startsAt: str | None
    endsAt: str | None


class HoldingRecord(TypedDict):
    """The booking record that holds; with ``isKnown`` false it makes the booking unknown."""

    offset: int
    received: str
    isKnown: bool
    numberOfParticipants: NotRequired[int]
    walkInsAllowed: NotRequired[bool]
    status: NotRequired[Literal["CONFIRMED", "CANCELED"]]
    sessions: NotRequired[list[ListedWindow] | None]


class JudgedRule(TypedDict):
    kind: AlertKind
    isOpen: bool
    message: str | None


class ReadOffsets(TypedDict):
    begin: int
    end: int


class ReadTopics(TypedDict):
    events: ReadOffsets
    bookings: ReadOffsets


class ComparedWithRedis(TypedDict):
    """``reason``: why Redis may differ."""

    agrees: bool
    attendance: Attendance | None
    differences: list[str]
    reason: str | None
    freshness: FreshnessShape


class HistoryAnswer(TypedDict):
    """``events``: in the law's order, the oldest first; ``offsets``: what was read of the partition."""

    attendanceId: str
    bookingId: str
    sessionId: str
    partition: int
    offsets: ReadTopics
    events: list[ExplainedEvent]
    deadLetters: list[ExplainedDeadLetter]
    deadLetterCount: int
    bookingRecord: HoldingRecord | None
    rules: list[JudgedRule]
    result: Attendance | None
    redis: ComparedWithRedis


class Health(TypedDict):
    status: str


class Readiness(TypedDict):
    """``problems``: of some partitions, while readers of the others are served."""

    status: Literal["ready"]
    problems: NotRequired[list[PartitionProblem]]
