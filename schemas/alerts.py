"""Mismatch alerts: CloudEvents on the alerts topic, see `schemas/README.md`."""

from enum import StrEnum
from typing import Any, Literal, NotRequired
from uuid import UUID

from typing_extensions import TypedDict

from schemas.attendance import JOIN, Attendance, guid, uuid5

#: Namespace of every alertId: UUIDv5(NAMESPACE, kind + JOIN + bookingId + JOIN + sessionId, empty where absent).
NAMESPACE = UUID("2c9a3be4-97c1-5b1e-8c55-6f5b0c9e4a10")
_NAMESPACE_BYTES = NAMESPACE.bytes


class AlertKind(StrEnum):
    STATUS_COUNT_MISMATCH = "STATUS_COUNT_MISMATCH"
    PARTICIPANTS_EXCEEDED = "PARTICIPANTS_EXCEEDED"
    BOOKING_CANCELED = "BOOKING_CANCELED"
    UNKNOWN_SESSION = "UNKNOWN_SESSION"
    CONFLICTING_REPORTS = "CONFLICTING_REPORTS"
    CLOCK_AHEAD = "CLOCK_AHEAD"
    FREQUENT_NO_SHOWS = "FREQUENT_NO_SHOWS"


class Severity(StrEnum):
    """ERROR: two facts cannot both be true; WARNING: look at it today; INFO: a pattern, or a device to repair."""

    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


SEVERITIES = {
    AlertKind.STATUS_COUNT_MISMATCH: Severity.WARNING,
    AlertKind.PARTICIPANTS_EXCEEDED: Severity.WARNING,
    AlertKind.BOOKING_CANCELED: Severity.ERROR,
    AlertKind.UNKNOWN_SESSION: Severity.WARNING,
    AlertKind.CONFLICTING_REPORTS: Severity.ERROR,
    AlertKind.CLOCK_AHEAD: Severity.INFO,
    AlertKind.FREQUENT_NO_SHOWS: Severity.INFO,
}

OPENED: Literal["attendance.mismatch.opened"] = "attendance.mismatch.opened"
RESOLVED: Literal["attendance.mismatch.resolved"] = "attendance.mismatch.resolved"
SOURCE = "/attendance-worker"


class AlertData(TypedDict):
    alertId: str
    kind: AlertKind
    severity: Severity
    bookingId: str
    sessionId: NotRequired[str]
    """Absent where the alert concerns the whole booking (FREQUENT_NO_SHOWS)."""
    attendance: Attendance | None
    expected: dict[str, Any]
    openedAt: str
    resolvedAt: NotRequired[str]
    message: str


class AlertEvent(TypedDict):
    """One record of the alerts topic; its key is ``data.alertId``."""

    specversion: Literal["1.0"]
    id: str
    source: str
    type: Literal["attendance.mismatch.opened", "attendance.mismatch.resolved"]
    time: str
    datacontenttype: Literal["application/json"]
    data: AlertData
    backfill: NotRequired[str]
    """Extension attribute: the operation whose records alone opened or resolved the alert, so that nobody need be notified."""


def alert_id(kind: AlertKind, booking_id: str, session_id: str | None) -> str:
    """The alertId, a GUID, of an alert of this kind for a booking, or for a booking at one session."""
    return guid(uuid5(_NAMESPACE_BYTES, f"{kind}{JOIN}{booking_id}{JOIN}{session_id or ''}"))
