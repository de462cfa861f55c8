"""Notices when most of a partition's events cannot be used, as after a device fleet was misdeployed. Nothing stops."""

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import structlog

from schemas.decoding.readable import document_of, source_of
from schemas.events import MAX_EVENT_BYTES, DeadLetter

log = structlog.get_logger(__name__)

#: The last events of a partition that are looked at.
WINDOW = 1_000
#: Most events are bad while more than the first are; no longer, when at most the second are: no line for each back and forth.
_ONSET, _END = WINDOW // 2, WINDOW * 2 // 5
_LONGEST_SOURCE = 256


class BadEvents:
    """Counts the bad ones of the last events of a partition. Good events cost a batch two additions."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._seen = 0
        self._bad: deque[tuple[int, str, str]] = deque()
        """Of each bad event in the window its number among all that were seen, its reason and its source."""
        self._is_onset_logged = False

    def add(self, records: Sequence[Any], dead_letters: Sequence[tuple[Any, DeadLetter, int]]) -> None:
        """Adds a batch of the events topic; logs when most events become bad, and when they no longer are."""
        before, self._seen = self._seen, self._seen + len(records)
        oldest = self._seen - WINDOW
        for record, letter, _ in dead_letters[-WINDOW:]:
            number = before + bisect_left(records, record.offset, key=_offset)
            if number >= oldest:
                self._bad.append((number, letter.reason.value, _source(record)))
        while self._bad and self._bad[0][0] < oldest:
            self._bad.popleft()
        if len(self._bad) > _ONSET and not self._is_onset_logged:
            self._is_onset_logged = True
            reason, source = self._commonest()
            log.error("most events are unusable", **self._counts(), reason=reason, source=source)
        elif len(self._bad) <= _END and self._is_onset_logged:
            self._is_onset_logged = False
            log.info("most events are usable again", **self._counts())

    def fields(self) -> dict[str, Any]:
        """Of the watermark, for the heartbeat. Reason and source are empty unless most events are bad."""
        reason, source = self._commonest() if self._is_onset_logged else ("", "")
        return {"events.bad": len(self._bad), "events.badReason": reason, "events.badSource": source}

    def _counts(self) -> dict[str, int]:
        return {"partition": self._partition, "bad": len(self._bad), "of": WINDOW}

    def _commonest(self) -> tuple[str, str]:
        (((reason, source), _),) = Counter((reason, source) for _, reason, source in self._bad).most_common(1)
        return reason, source


def _offset(record: Any) -> int:
    return int(record.offset)


def _source(record: Any) -> str:
    readable = record.value is not None and len(record.value) <= MAX_EVENT_BYTES
    source = source_of(document_of(record.value) if readable else None, record.headers) or "unreadable"
    return "".join(each if each.isprintable() else "?" for each in source[:_LONGEST_SOURCE])
