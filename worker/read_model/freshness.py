"""How fresh the read models are, from the watermark of each partition.

Every second a worker writes its heartbeat and the time at which Kafka last confirmed the ends of the topics, both by the
clock of the Redis server. A reader gets the watermark together with the time of the same server, so clock differences between
machines do not matter.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

TOPICS = ("events", "bookings")
#: Age in seconds after which a heartbeat, or Kafka's confirmation, is outdated. It is written every second, and readers must
#: see within 5 s that a worker or Kafka is gone: three heartbeats may be late, and one second is left for the reader's poll.
STALE_AFTER = 4.0


class Freshness(NamedTuple):
    """How fresh an answer is."""

    event_time: str | None
    """Newest effective event time applied, RFC 3339; it never decreases. None: unknown, or nothing was applied yet."""
    lag: int | None
    """Records of the events and bookings topics that are not applied yet. None: unknown, the worker or Kafka is unavailable."""

    def document(self) -> dict[str, Any]:
        return {"eventTime": self.event_time, "lag": self.lag}


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition's watermark."""

    number: int
    state: str
    mark: dict[str, str]
    """The fields of the watermark, see `worker.read_model.keys.LAYOUT`."""
    now_ms: int = field(compare=False)
    """The time of the Redis server when the watermark was read."""

    @property
    def age(self) -> float:
        """Seconds since the worker's heartbeat; infinite if there never was one."""
        return self._age("writtenAt")

    @property
    def kafka_age(self) -> float:
        """Seconds since Kafka confirmed the ends of both topics; infinite if it never did."""
        return max(self._age(f"{topic}.confirmedAt") for topic in TOPICS)

    @property
    def fresh_age(self) -> float:
        """Seconds since the read models were known to hold everything that Kafka had; infinite if they never were."""
        return self._age("freshAt")

    @property
    def kafka_was_unavailable(self) -> bool:
        """Whether Kafka did not answer the worker in the time before its last heartbeat. Not set by a dead worker alone."""
        return self.kafka_age > STALE_AFTER and self.kafka_age - self.age > STALE_AFTER / 2

    @property
    def has_owner(self) -> bool:
        """Whether the heartbeat is recent."""
        return self.age <= STALE_AFTER

    @property
    def is_filled(self) -> bool:
        """Whether the watermark has offsets; False until the first fill, and after a flush until the next one."""
        return "events.offset" in self.mark

    @property
    def event_time(self) -> str | None:
        """Newest effective event time applied, RFC 3339."""
        return self.mark.get("events.time") or None

    @property
    def lag(self) -> int | None:
        """Records that are not applied yet; None if the end offsets are outdated or unknown."""
        if not self.is_filled or max(self.age, self.kafka_age) > STALE_AFTER:
            return None
        return sum(max(0, self.number_of(f"{topic}.end") - self.number_of(f"{topic}.offset")) for topic in TOPICS)

    def held(self, topic: str) -> int:
        """Offsets held by open transactions."""
        return self.number_of(f"{topic}.held")

    def unreadable(self, topic: str) -> int | None:
        """The offset of a batch that cannot be read and blocks the topic; None if there is none."""
        offset = self.mark.get(f"{topic}.unreadable", "")
        return int(offset) if offset else None

    @property
    def bad_events(self) -> int:
        """How many of the last 1,000 events that its worker read cannot be used."""
        return self.number_of("events.bad")

    @property
    def commonest_bad(self) -> tuple[str, str] | None:
        """While most of these events are bad, the commonest reason and source."""
        reason = self.mark.get("events.badReason", "")
        return (reason, self.mark.get("events.badSource", "")) if reason else None

    def number_of(self, name: str) -> int:
        """A field of the watermark as a number; 0 if it is absent."""
        return int(self.mark.get(name, 0))

    def _age(self, name: str) -> float:
        written = self.mark.get(name)
        return max(0.0, (self.now_ms - int(written)) / 1000) if written else inf


def freshness_of(partitions: Iterable[Partition]) -> Freshness:
    """The freshness of an answer from these partitions."""
    partitions = list(partitions)
    lags = [partition.lag for partition in partitions]
    lag = None if None in lags else sum(lag or 0 for lag in lags)
    if not all(partition.is_filled for partition in partitions):
        # the newest time may be that of a partition being filled: the maximum of the others could be less than one shown before
        return Freshness(None, lag)
    return Freshness(max((partition.event_time or "" for partition in partitions), default="") or None, lag)


class Problem(NamedTuple):
    """A problem of partitions. All but ``BAD_EVENTS`` stop them from making progress."""

    code: str
    """``NO_WORKER``, ``KAFKA_AWAY``, ``UNREADABLE_BATCH``, ``REPAIRING`` or ``BAD_EVENTS``."""
    partitions: list[int]
    description: str
    """A sentence: the problem and its remedy."""

    @property
    def blocks_all_progress(self) -> bool:
        """Whether these partitions receive no new data at all."""
        return self.code in ("NO_WORKER", "KAFKA_AWAY")


def find_problems(partitions: Iterable[Partition]) -> list[Problem]:
    """The problems of the partitions, the worst first."""
    partitions = list(partitions)
    unowned = [each for each in partitions if not each.has_owner]
    owned = [each for each in partitions if each.has_owner]
    unconfirmed = [each for each in owned if each.kafka_was_unavailable]
    filling = [each for each in owned if each.state != "live"]
    problems = []
    if unowned:
        since = _longest(each.age for each in unowned)
        remedy = "start workers, or wait until the new owners have recovered"
        problems.append(_problem("NO_WORKER", unowned, f"no worker owns {{}}, no heartbeat {since}: {remedy}"))
    if unconfirmed:
        since = _longest(each.kafka_age for each in unconfirmed)
        cause = "it is unavailable, or these partitions have no leader"
        problems.append(_problem("KAFKA_AWAY", unconfirmed, f"Kafka has not answered the workers of {{}} {since}: {cause}"))
    for each in owned:
        for topic in TOPICS:
            if (offset := each.unreadable(topic)) is not None:
                what = f"the record batch at offset {offset} of {topic} cannot be read, {{}} is stopped there"
                problems.append(_problem("UNREADABLE_BATCH", [each], f"{what}: delete it, or restore the log from a replica"))
    if filling:
        problems.append(_problem("REPAIRING", filling, "read models of {} are being filled from the tables: wait"))
    for commonest in sorted({each.commonest_bad for each in owned if each.commonest_bad is not None}):
        bad = [each for each in owned if each.commonest_bad == commonest]
        reason, source = (text.replace("{", "{{").replace("}", "}}") for text in commonest)
        number = f"{'up to ' if len(bad) > 1 else ''}{max(each.bad_events for each in bad)}"
        what = f"{number} of the last 1,000 events of {{}} cannot be used, most often {reason} from {source}"
        problems.append(_problem("BAD_EVENTS", bad, f"{what}: correct these devices, then see `attendance dead-letters stats`"))
    return problems


def _problem(code: str, partitions: list[Partition], description: str) -> Problem:
    return Problem(code, [each.number for each in partitions], description.format(_numbers(partitions)))


def _numbers(partitions: list[Partition]) -> str:
    """The partitions, as ``partition 3`` or ``partitions 0-3, 7``."""
    runs: list[list[int]] = []
    for each in partitions:
        if runs and each.number == runs[-1][1] + 1:
            runs[-1][1] = each.number
        else:
            runs.append([each.number, each.number])
    shown = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
    return f"partition {shown}" if len(partitions) == 1 else f"partitions {shown}"


def _longest(ages: Iterable[float]) -> str:
    longest = max(ages)
    return "yet" if longest == inf else f"for {longest:.0f} s"
