"""Logs how many records became dead letters, and why: for each reason at most one line a minute."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from time import monotonic
from typing import Any

import structlog
from aiokafka import TopicPartition

from schemas.decoding.readable import traceparent_of
from schemas.events import DeadLetter, Reason

log = structlog.get_logger(__name__)

_REPORT_SECONDS = 60.0


@dataclass(slots=True)
class DeadLetterCount:
    """Dead letters of one reason."""

    count: int
    topic: str
    """Of the first of them; so are ``partition``, ``offset``, ``detail`` and ``traceparent``."""
    partition: int
    offset: int
    detail: str
    traceparent: str | None = None


def count_by_reason(
    dead_letters: Iterable[tuple[Any, DeadLetter, int]], source: TopicPartition
) -> dict[Reason, DeadLetterCount]:
    """Counts entries of (record, dead letter, received); ``source``: where the records were read."""
    counts: dict[Reason, DeadLetterCount] = {}
    for record, letter, _ in dead_letters:
        if letter.reason not in counts:
            trace = traceparent_of(record.value, record.headers)
            counts[letter.reason] = DeadLetterCount(0, source.topic, source.partition, record.offset, letter.detail, trace)
        counts[letter.reason].count += 1
    return counts


class DeadLetterLog:
    """Logs the first dead letter of each reason at once, and later ones once a minute."""

    def __init__(self) -> None:
        self._waiting: dict[Reason, DeadLetterCount] = {}
        self._due: dict[Reason, float] = {}
        """By reason, the time from which it may be logged again."""

    def add(self, counts: Mapping[Reason, DeadLetterCount]) -> None:
        """Adds the counts of a batch whose dead letters are in Kafka."""
        for reason, count in counts.items():
            first = self._waiting.get(reason)
            self._waiting[reason] = count if first is None else replace(first, count=first.count + count.count)

    def report(self) -> None:
        """Logs the reasons that are due; called every second."""
        now = monotonic()
        for reason in [reason for reason in self._waiting if now >= self._due.get(reason, now)]:
            self._due[reason] = now + _REPORT_SECONDS
            self._log(reason, self._waiting.pop(reason))

    def flush(self) -> None:
        """Logs all counts that wait."""
        while self._waiting:
            self._log(*self._waiting.popitem())

    @staticmethod
    def _log(reason: Reason, count: DeadLetterCount) -> None:
        fields = {name: value for name, value in asdict(count).items() if value is not None}
        log.warning("dead letters", reason=reason.value, **fields)
