"""Records of the alerts topic, as `attendance verify` compares them."""

from collections.abc import Iterator
from typing import Any

import orjson

from schemas.alerts import OPENED, AlertKind, alert_id
from worker.domain.alert_rules import FREQUENT, kinds
from worker.domain.booking_state import BookingState

Concerns = tuple[str, AlertKind, str | None]
"""bookingId, kind and sessionId of an alert."""


def topic_state(event: Any) -> bytes | None:
    """What matters of an alert's event: its data while it is open; None if it is resolved, or there is none.

    The id of the event depends on rows that readers do not see, and ``backfill`` on how the alert was opened.
    """
    return None if event is None or event["type"] != OPENED else orjson.dumps(event["data"], option=orjson.OPT_SORT_KEYS)


def current_alerts(state: BookingState) -> Iterator[Concerns]:
    """Each alert of a booking that was ever open."""
    for name, row in state.rows.items():
        for kind in kinds(row.ever_opened | state.masks.get(name, 0)):
            yield state.booking_id, kind, name
    if state.ever_frequent or state.frequent:
        yield state.booking_id, FREQUENT, None


def parse_alert(key: bytes, value: bytes | None) -> tuple[Any, Concerns] | None:
    """An event of the alerts topic and what it concerns; None if the record is no alert."""
    try:
        event = orjson.loads(value or b"")
        data = event["data"]
        concerns = data["bookingId"], AlertKind(data["kind"]), data.get("sessionId")
        is_alert = isinstance(event["type"], str) and alert_key(concerns) == key
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return (event, concerns) if is_alert else None


def alert_key(concerns: Concerns) -> bytes:
    """The key of an alert's records."""
    booking, kind, session = concerns
    return alert_id(kind, booking, session).encode()
