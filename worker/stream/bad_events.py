"""Notices when most of a partition's events cannot be used, as after a device fleet was misdeployed. Nothing stops."""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import structlog

from schemas.decoding.readable import document_of, source_of
from schemas.events import MAX_EVENT_BYTES, DeadLetter

log = structlog.get_logger(__name__)

#: The last events of a partition that are looked at.
WINDOW = 1_000
#: Most events are bad while more than the first are; no longer, when at most the second are: no line for each back and forth.
_ONSET, _END = WINDOW // 2, WINDOW * 2 // 5
_LONGEST_SOURCE, _UNREADABLE = 256, "unreadable"


class BadEvent(NamedTuple):
    """One event that cannot be used."""

    source: str | None
    """None if it cannot be read."""
    reason: str
    received: int
    """Microseconds since the epoch."""


class BadEvents:
    """Counts the bad ones of the last events of a partition. Good events cost a batch two additions."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._seen = 0
        self._bad: deque[tuple[int, str, str]] = deque()
        """Of each bad event in the window its number among all that were seen, its reason and its source."""
        self._is_onset_logged = False

    def add(self, records: Sequence[Any], dead_letters: Sequence[tuple[Any, DeadLetter, int]]) -> list[BadEvent]:
        """Adds a batch of the events topic; logs when most events become bad, and when they no longer are.

        Returns the bad ones: of very many the last `WINDOW`, so that what cannot be used costs no more than that.
        """
        bad = list[BadEvent]()
        for record, letter, received in dead_letters[-WINDOW:]:
            source, number = _source(record), self._seen + bisect_left(records, record.offset, key=attrgetter("offset"))
            bad.append(BadEvent(source, letter.reason.value, received))
            self._bad.append((number, letter.reason.value, source or _UNREADABLE))
        self._seen += len(records)
        while self._bad and self._bad[0][0] < self._seen - WINDOW:
            self._bad.popleft()
        if len(self._bad) > _ONSET and not self._is_onset_logged:
            self._is_onset_logged = True
            reason, source = self._commonest()
            log.error("most events are unusable", **self._counts(), reason=reason, source=source)
        elif len(self._bad) <= _END and self._is_onset_logged:
            self._is_onset_logged = False
            log.info("most events are usable again", **self._counts())
        return bad

    def fields(self) -> dict[str, Any]:
        """Of the watermark, for the heartbeat. Reason and source are empty unless most events are bad."""
        reason, source = self._commonest() if self._is_onset_logged else ("", "")
        return {"events.bad": len(self._bad), "events.badReason": reason, "events.badSource": source}

    def _counts(self) -> dict[str, int]:
        return {"partition": self._partition, "bad": len(self._bad), "of": WINDOW}

    def _commonest(self) -> tuple[str, str]:
        (((reason, source), _),) = Counter((reason, source) for _, reason, source in self._bad).most_common(1)
        return reason, source


def _source(record: Any) -> str | None:
    readable = record.value is not None and len(record.value) <= MAX_EVENT_BYTES
    source = source_of(document_of(record.value) if readable else None, record.headers)
    if not source:
        return None
    shown = source[:_LONGEST_SOURCE]
    return shown if shown.isprintable() else "".join(each if each.isprintable() else "?" for each in shown)
