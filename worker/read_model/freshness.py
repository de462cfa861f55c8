"""How fresh the read models are: what each partition's watermark says, by the clock of the server that it is on.

A worker writes each second when it was there and when Kafka last confirmed the ends of the topics, both by Redis' clock;
a reader takes the time of the same server with the watermark. So the clocks of the machines do not count.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple

TOPICS = ("events", "bookings")
#: A heartbeat, or what Kafka confirmed, counts as unknown when it is older, seconds. It is written each second, and readers
#: are to see within 5 s that a worker or Kafka has died: up to three heartbeats may be late, and a second is left to ask.
STALE_AFTER = 4.0


class Freshness(NamedTuple):
    """How fresh an answer is. None where it is not known."""

    event_time: str | None
    """Newest effective event time applied, RFC 3339; it never goes back. None also where nothing was applied yet."""
    lag: int | None
    """Records of the events and bookings topics that are not applied yet. None while no worker or no Kafka says."""

    def document(self) -> dict[str, Any]:
        return {"eventTime": self.event_time, "lag": self.lag}


@dataclass(frozen=True, slots=True)
class Partition:
    """What the watermark says of a partition."""

    number: int
    state: str
    mark: dict[str, str]
    """Its fields, see `worker.read_model.keys.LAYOUT`."""
    now_ms: int = field(compare=False)
    """The time of Redis when it was read."""

    @property
    def age(self) -> float:
        """How long ago its worker wrote it, seconds; infinite where none ever has."""
        return self._age("writtenAt")

    @property
    def kafka_age(self) -> float:
        """How long ago Kafka confirmed the ends of its topics, of the older of them, seconds; infinite: never."""
        return max(self._age(f"{topic}.confirmedAt") for topic in TOPICS)

    @property
    def kafka_was_away(self) -> bool:
        """Whether Kafka had not answered its worker for a while when that last wrote; a dead worker says nothing of Kafka."""
        return self.kafka_age > STALE_AFTER and self.kafka_age - self.age > STALE_AFTER / 2

    @property
    def has_owner(self) -> bool:
        """Whether a worker has written lately."""
        return self.age <= STALE_AFTER

    @property
    def is_filled(self) -> bool:
        """Whether its watermark says how far it is; not before it is filled first, or again after a flush."""
        return "events.offset" in self.mark

    @property
    def event_time(self) -> str | None:
        """Newest effective event time applied, RFC 3339."""
        return self.mark.get("events.time") or None

    @property
    def lag(self) -> int | None:
        """Records not applied yet; None where nobody has said lately how long the topics are."""
        if not self.is_filled or max(self.age, self.kafka_age) > STALE_AFTER:
            return None
        return sum(max(0, self.number_of(f"{topic}.end") - self.number_of(f"{topic}.offset")) for topic in TOPICS)

    def held(self, topic: str) -> int:
        """Offsets that open transactions hold."""
        return self.number_of(f"{topic}.held")

    def unreadable(self, topic: str) -> int | None:
        """The offset of a batch that cannot be read, at which the topic stands."""
        offset = self.mark.get(f"{topic}.unreadable", "")
        return int(offset) if offset else None

    def number_of(self, name: str) -> int:
        """A field of the watermark; 0 where it is not there."""
        return int(self.mark.get(name, 0))

    def _age(self, name: str) -> float:
        written = self.mark.get(name)
        return max(0.0, (self.now_ms - int(written)) / 1000) if written else inf


def freshness_of(partitions: Iterable[Partition]) -> Freshness:
    """Of an answer that comes from these partitions."""
    known = list(partitions)
    lags = [partition.lag for partition in known]
    lag = None if None in lags else sum(lag or 0 for lag in lags)
    if not all(partition.is_filled for partition in known):
        # the newest may be in a partition that is being filled again: what others know may lie before what was shown
        return Freshness(None, lag)
    return Freshness(max((partition.event_time or "" for partition in known), default="") or None, lag)


class Trouble(NamedTuple):
    """Something that keeps partitions from going on."""

    code: str
    """``NO_WORKER``, ``KAFKA_AWAY``, ``UNREADABLE_BATCH`` or ``REPAIRING``."""
    partitions: list[int]
    description: str
    """A sentence: what, and what to do."""

    @property
    def stops_all_news(self) -> bool:
        """Whether nothing that happens now would be seen in these partitions."""
        return self.code in ("NO_WORKER", "KAFKA_AWAY")


def troubles(partitions: Iterable[Partition]) -> list[Trouble]:
    """What keeps which partitions from going on, the worst first."""
    known = list(partitions)
    without = [each for each in known if not each.has_owner]
    owned = [each for each in known if each.has_owner]
    unconfirmed = [each for each in owned if each.kafka_was_away]
    filling = [each for each in owned if each.state != "live"]
    found = []
    if without:
        since = _longest(each.age for each in without)
        cure = "start workers, or wait until those that took over have recovered"
        found.append(_trouble("NO_WORKER", without, f"no worker owns {{}}, nothing was written there {since}: {cure}"))
    if unconfirmed:
        since = _longest(each.kafka_age for each in unconfirmed)
        cause = "it is away or frozen, or they have no leader"
        found.append(_trouble("KAFKA_AWAY", unconfirmed, f"Kafka has not answered the workers of {{}} {since}: {cause}"))
    for each in owned:
        for topic in TOPICS:
            if (offset := each.unreadable(topic)) is not None:
                what = f"the record batch at offset {offset} of {topic} cannot be read, {{}} stands there"
                found.append(_trouble("UNREADABLE_BATCH", [each], f"{what}: delete it, or restore the log from a replica"))
    if filling:
        found.append(_trouble("REPAIRING", filling, "{} cannot be read while filled from the tables: wait"))
    return found


def _trouble(code: str, partitions: list[Partition], description: str) -> Trouble:
    return Trouble(code, [each.number for each in partitions], description.format(_numbers(partitions)))


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
