"""The rolling estimates of the sources of a partition, updated once for each batch and source."""

from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from statistics import median

from worker.domain.devices import MOST_DEVICES, SourceEvents
from worker.read_model.estimates import (
    DEAD_MINUTES,
    DEAD_SPANS,
    DECAY,
    MOST_SESSIONS,
    SESSION_MINUTES,
    Estimate,
    SessionEvents,
    pack_estimate,
    unpack_estimate,
)
from worker.read_model.write_batch import EstimateChange
from worker.stream.bad_events import BadEvent

#: Sources of which only dead letters are known: anyone may invent more, so they must not displace the others.
MOST_DEAD_ONLY = 1_000
#: Gaps and clock offsets whose median is taken; those of a stored estimate count as at most so many of them.
_SAMPLES, _RESTORED = 15, 5
_SECOND, _MINUTE = 1_000_000, 60_000_000


class _Source:
    """The estimates of one source, with the samples of which they show the median."""

    __slots__ = ("estimate", "gaps", "offsets")

    def __init__(self, estimate: Estimate) -> None:
        self.estimate = estimate
        self.gaps = array("f", [estimate.gap] * min(estimate.gaps, _RESTORED))
        self.offsets = array("f", [estimate.offset] * min(estimate.offsets, _RESTORED))

    def add(self, events: SourceEvents) -> None:
        """Takes the events of a batch."""
        estimate, received, counts = self.estimate, events.received, events.minutes
        if estimate.received and received > estimate.received:
            _push(self.gaps, (received - estimate.received) / _SECOND / sum(counts.values()))
        _push(self.offsets, (received - events.time) / _SECOND)
        if received >= estimate.received:
            estimate.received, estimate.session = received, events.session_id
        for minute in sorted(counts):
            _count(estimate, minute, counts[minute])
        _count_sessions(estimate.sessions, events.sessions, received)

    def packed(self) -> bytes:
        """The bytes for Redis."""
        estimate = self.estimate
        estimate.gap, estimate.gaps = _median(self.gaps), len(self.gaps)
        estimate.offset, estimate.offsets = _median(self.offsets), len(self.offsets)
        return pack_estimate(estimate)


class DeviceEstimates:
    """The estimates of all sources of a partition; of too many, those leave that were updated least recently."""

    def __init__(self, most: int = MOST_DEVICES, most_dead_only: int = MOST_DEAD_ONLY) -> None:
        self._most, self._most_dead_only = most, most_dead_only
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self._dead_only: OrderedDict[str, _Source] = OrderedDict()
        self._changed: dict[str, None] = {}
        """Sources that are to be written."""

    def load(self, stored: Mapping[str, bytes], is_device: Callable[[str], bool]) -> None:
        """Takes over what an earlier owner stored."""
        self.clear()
        estimates = ((source, unpack_estimate(packed)) for source, packed in stored.items())
        known = [(source, each) for source, each in estimates if each is not None]
        for source, estimate in sorted(known, key=lambda item: max(item[1].received, item[1].dead_received)):
            (self._sources if is_device(source) else self._dead_only)[source] = _Source(estimate)

    def clear(self) -> None:
        """Begins anew."""
        self._sources.clear()
        self._dead_only.clear()
        self._changed.clear()

    def add(self, sources: Mapping[str, SourceEvents]) -> None:
        """Takes a batch."""
        held = self._sources
        for name, events in sources.items():
            source = held.get(name)
            if source is None:
                source = held[name] = self._dead_only.pop(name) if name in self._dead_only else _Source(Estimate())
            else:
                held.move_to_end(name)
            source.add(events)
            self._changed[name] = None
        self._drop(held, self._most)

    def add_dead_letters(self, bad: Iterable[BadEvent], is_device: Callable[[str], bool]) -> None:
        """Takes dead letters of a batch whose sources can be read."""
        for each in bad:
            if (name := each.source) is None:
                continue
            held = self._sources if name in self._sources or is_device(name) else self._dead_only
            source = held.get(name)
            if source is None:
                source = held[name] = _Source(Estimate())
            _count_dead_letter(source.estimate, each)
            held.move_to_end(name)
            self._changed[name] = None
        self._drop(self._sources, self._most)
        self._drop(self._dead_only, self._most_dead_only)

    def take_changed(self, most: int) -> list[EstimateChange]:
        """What is to be written of some sources, those first that wait longest."""
        names = list(islice(self._changed, most))
        for name in names:
            del self._changed[name]
        return [self._change(name) for name in names]

    def take_all_again(self) -> None:
        """All are to be written: read models that had none hold them then."""
        self._changed.update(dict.fromkeys([*self._sources, *self._dead_only]))

    def put_back(self, changes: Sequence[EstimateChange]) -> None:
        """These could not be written."""
        self._changed.update((each.source, None) for each in changes)

    def _change(self, name: str) -> EstimateChange:
        if (source := self._sources.get(name)) is not None:
            return EstimateChange(name, source.packed())
        if (source := self._dead_only.get(name)) is not None:
            return EstimateChange(name, source.packed(), source.estimate.dead_received // 1000)
        return EstimateChange(name, b"")

    def _drop(self, held: OrderedDict[str, _Source], most: int) -> None:
        while len(held) > most:
            name, _ = held.popitem(last=False)
            self._changed[name] = None


def _count(estimate: Estimate, minute: int, events: int) -> None:
    """Adds the events received in a minute; those of minutes long over count for the usual rate."""
    if not estimate.since:
        estimate.since = estimate.minute = minute
    past = minute - estimate.minute
    if past > 0:
        # `current` becomes the last minute of the past, and each minute since then weighs less
        estimate.decayed = (estimate.decayed * DECAY + estimate.current) * DECAY ** min(past - 1, 10_000)
        estimate.previous = estimate.current if past == 1 else 0
        estimate.current, estimate.minute = events, minute
    elif past == 0:
        estimate.current += events
    else:
        estimate.since = min(estimate.since, minute)
        estimate.previous += events if past == -1 else 0
        estimate.decayed += events * DECAY ** min(-past - 1, 10_000)


def _count_sessions(held: dict[str, SessionEvents], counts: Mapping[str, int], received: int) -> None:
    """Adds the events of a batch, of which the newest was received then; keeps the sessions of the last events."""
    for name in list(counts)[-MOST_SESSIONS:]:
        before = held.pop(name, None)
        is_recent = before is not None and received - before.received < SESSION_MINUTES * _MINUTE
        held[name] = SessionEvents(counts[name] + (before.events if before and is_recent else 0), received)
    for name in list(held)[:-MOST_SESSIONS]:
        del held[name]


def _count_dead_letter(estimate: Estimate, bad: BadEvent) -> None:
    span = bad.received // (DEAD_MINUTES * _MINUTE)
    past = span - estimate.dead_span
    counts = [*estimate.dead, *[0] * (DEAD_SPANS - len(estimate.dead))]
    if past > 0:
        counts = [*[0] * min(past, DEAD_SPANS), *counts][:DEAD_SPANS]
        estimate.dead_span, past = span, 0
    if -past < DEAD_SPANS:
        counts[-past] += 1
    estimate.dead = tuple(counts)
    if bad.received >= estimate.dead_received:
        estimate.dead_received, estimate.dead_reason = bad.received, bad.reason


def _push(samples: "array[float]", value: float) -> None:
    if len(samples) == _SAMPLES:
        del samples[0]
    samples.append(value)


def _median(samples: "array[float]") -> float:
    return round(median(samples), 3) if samples else 0.0
