"""The values the oracle takes and gives; the property tests expect the same of the product's adapter."""

from typing import Any, NamedTuple


class Rules(NamedTuple):
    """Settings that shape results, in microseconds."""

    clock_tolerance: int = 300_000_000
    conflict_window: int = 600_000_000


class Delivery(NamedTuple):
    """A valid structured CloudEvent of the events topic and when it was received, microseconds since the epoch."""

    event: dict[str, Any]
    received: int


class BookingRecord(NamedTuple):
    """A valid record of the bookings topic; `event` is None for a null value.

    `received` is in microseconds; of records received at the same time the one later in its right partition is later in a list.
    """

    key: str
    event: dict[str, Any] | None
    received: int = 0


class Outcome(NamedTuple):
    """Everything the contract derives from a set of deliveries and the booking records.

    attendances: (bookingId, sessionId) -> the attendance without its `id`
    tallies: sessionId -> the session tally, for sessions with at least one pair
    summaries: bookingId -> the booking summary, for bookings with at least one pair
    alerts: (kind, bookingId, sessionId or None) -> {"openedAt", "attendance"} of the open alerts
    arrivals: sessionId -> minute since the epoch -> people that arrived in it, for sessions and minutes with any
    devices: source -> (effective time, time, received) of its newest event, microseconds
    """

    attendances: dict[tuple[str, str], dict[str, Any]]
    tallies: dict[str, dict[str, Any]]
    summaries: dict[str, dict[str, Any]]
    alerts: dict[tuple[str, str, str | None], dict[str, Any]]
    arrivals: dict[str, dict[int, int]]
    devices: dict[str, tuple[int, int, int]]

    def without_devices(self) -> "Outcome":
        """What counting events come to: devices show those that do not count too."""
        return self._replace(devices={})


#: Of no events and no bookings.
NOTHING = Outcome({}, {}, {}, {}, {}, {})
