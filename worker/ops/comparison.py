"""Compares a copy of one partition's tables with Redis and the alerts topic, a slice at a time, also while its owner writes.

How a difference is told from lag: before a slice is read, Redis (and for alerts the committed offsets) has reached the copy.
What differs then is looked at again after the copy has read the changelogs to their end, batch by batch. Every batch is in
the changelogs before anything of it is in Redis or in the alerts topic. So a place is as it should be if it was found as it
is after one of these batches, and differs if none of them concerns it. Otherwise it is read again.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice

import orjson

from schemas.alerts import RESOLVED, SOURCE
from schemas.attendance import guid
from worker.ops.alert_records import Concerns, alert_key, current_alerts, parse_alert, topic_state
from worker.ops.partition_report import ALERTS_TOPIC, MOST_DIFFERENCES, Difference, PartitionReport
from worker.ops.table_copy import TableCopy
from worker.ops.watched import Watched
from worker.read_model.content import (
    DEVICES,
    DEVICES_AT,
    UNDETERMINED,
    PartitionContent,
    Place,
    bookings_of,
    is_hash,
    is_sum,
    is_tally,
    session_of,
    shown,
    tally_of,
)
from worker.read_model.documents import unpack_contribution

#: Bookings whose alerts are compared together.
_AT_ONCE = 500
#: Places that seem to differ are looked at again when there are so many.
_SETTLED_AT_ONCE = 2_000
#: How often a place that changes meanwhile is looked at.
_LOOKS = 30
#: A tally is read with all its pairs, at one moment, if a session has at most so many in the partition: this takes Redis a few
#: ms. That of a larger one is compared when it does not change, or was found as it is after a batch.
_MOST_PAIRS = 2_000
#: Pairs that are held at a time.
_PAIRS_AT_ONCE = 50_000

Reached = Callable[[bool], Awaitable[bool]]
"""Waits until Redis (True: and the committed offsets) has reached the copy. False: a repair has replaced the keys meanwhile."""


@dataclass(slots=True)
class _Candidate:
    """A place where something else was found than expected."""

    place: Place
    found: bytes | None
    concerns: Concerns | None = None
    """Of an alert in the topic."""
    pairs: Mapping[bytes, bytes] | None = None
    """Of a tally: the contributions of all pairs at the same moment."""
    looks: int = 0


class Comparison:
    """One comparison of a partition; what it finds is added to a report."""

    def __init__(
        self,
        copy: TableCopy,
        content: PartitionContent,
        report: PartitionReport,
        reached: Reached,
        on_progress: Callable[[int], None],
    ) -> None:
        self._copy = copy
        self._content = content
        self._report = report
        self._reached = reached
        self._on_progress = on_progress
        self._most = 0

    async def run(self, *, only_alerts: bool = False) -> bool:
        """Compares Redis and the alerts topic, or only that one.

        Returns False if a repair has replaced the keys meanwhile: nothing that was found counts then.
        """
        if not only_alerts and not await self._compare(self._in_redis(), with_commits=False):
            return False
        if not await self._reached(True):
            return False
        await self._copy.follow_alerts()
        return await self._compare(self._in_alerts_topic(), with_commits=True)

    async def _compare(self, slices: AsyncGenerator[list[_Candidate]], *, with_commits: bool) -> bool:
        self._most = len(self._report.differences) + MOST_DIFFERENCES
        candidates: dict[Place, _Candidate] = {}
        async with aclosing(slices):
            async for found in slices:
                candidates.update((each.place, each) for each in found)
                if len(candidates) >= _SETTLED_AT_ONCE:
                    if not await self._settle([*candidates.values()], with_commits=with_commits):
                        return False
                    candidates.clear()
                if len(self._report.differences) >= self._most:
                    return True
        return await self._settle([*candidates.values()], with_commits=with_commits)

    async def _in_redis(self) -> AsyncGenerator[list[_Candidate]]:
        """Slices of what is expected, then of all that Redis has."""
        for expected in self._copy.content():
            found = await self._content.values([place for place, _ in expected])
            yield [_Candidate(place, at) for (place, value), at in zip(expected, found, strict=True) if value != at]
            self._report.compared += len(expected)
            self._on_progress(len(expected))
        async for names in self._content.all_keys():
            sums = [(name, b"") for name in names if is_sum(name)]
            known = [name for name in names if is_hash(name) is not None]
            unknown = set(names) - set(known) - {key for key, _ in sums} - UNDETERMINED
            yield [_Candidate((name, b""), b"a key that the layout does not have") for name in unknown]
            yield await self._surplus(sums)
            async for places in self._content.members(known):
                yield await self._surplus(places)

    async def _surplus(self, places: Sequence[Place]) -> list[_Candidate]:
        expected = self._copy.expected(places)
        unexpected = [place for place, value in zip(places, expected, strict=True) if value is None]
        found = await self._content.values(unexpected)
        return [_Candidate(place, value) for place, value in zip(unexpected, found, strict=True) if value is not None]

    async def _in_alerts_topic(self) -> AsyncGenerator[list[_Candidate]]:
        """Slices of the alerts of which the topic says something else than the tables."""
        for records in self._copy.alerts_of_topic():
            parsed = [(key, alert) for key, value in records if (alert := parse_alert(key, value)) is not None]
            expected = self._copy.alert_events([concerns for _, (_, concerns) in parsed])
            yield [
                _Candidate((ALERTS_TOPIC, key), topic_state(event), concerns)
                for (key, (event, concerns)), current in zip(parsed, expected, strict=True)
                if topic_state(event) != topic_state(current)
            ]
            self._report.compared += len(parsed)
            await asyncio.sleep(0)
        names = self._copy.bookings()
        while part := list(islice(names, _AT_ONCE)):
            alerts = [alert for state in self._copy.states(part) for alert in current_alerts(state)]
            keys = [alert_key(alert) for alert in alerts]
            values = self._copy.topic_values(keys)
            lacking = [(key, alert) for key, alert, value in zip(keys, alerts, values, strict=True) if value is None]
            expected = self._copy.alert_events([alert for _, alert in lacking])
            yield [
                _Candidate((ALERTS_TOPIC, key), None, concerns)
                for (key, concerns), current in zip(lacking, expected, strict=True)
                if topic_state(current) is not None
            ]
            await asyncio.sleep(0)

    async def _settle(self, candidates: list[_Candidate], *, with_commits: bool) -> bool:
        """Reports those that surely differ, until none is left; returns False if a repair has replaced the keys meanwhile."""
        while candidates:
            by_place = {each.place: each for each in candidates}
            right = set[Place]()

            def check(places: Iterable[Place]) -> None:
                concerned = [by_place[place] for place in places]  # noqa: B023 - called in this round only
                expected = self._expected(concerned)
                right.update(  # noqa: B023
                    each.place for each, value in zip(concerned, expected, strict=True) if value == each.found
                )

            watched = Watched(by_place, [session_of(each.place[0]) for each in candidates if each.pairs is not None])
            await self._copy.follow(watched, check)
            # the next slice is read from a Redis, and of an alerts topic, that has what was read now
            if not await self._reached(with_commits):
                return False
            if with_commits:
                await self._copy.follow_alerts()
            unsettled = [each for each in candidates if each.place not in right]
            expected = self._expected(unsettled)
            remaining = []
            for each, value in zip(unsettled, expected, strict=True):
                if value == each.found:
                    continue
                is_right = self._is_right_sum(each, watched) if each.place in watched.changed else False
                if is_right is False:
                    self._add(each, value)
                elif is_right is None and each.looks >= _LOOKS:
                    self._add(each, value, "changing")
                elif is_right is None:
                    remaining.append(each)
            candidates = await self._look_again(remaining)
        return True

    def _is_right_sum(self, candidate: _Candidate, watched: Watched) -> bool | None:
        """Whether it is the sum of its pairs: those that changed as Redis had them, the others of the tables.

        None: this is not known.
        """
        if candidate.pairs is None:
            return None
        (key, _), pairs = candidate.place, candidate.pairs
        session = session_of(key)
        of_tables, changed = self._copy.pairs(session), watched.ids[session]
        unread = changed - pairs.keys()
        if unread & of_tables.keys():
            return None
        summed = [of_tables[each] for each in of_tables.keys() - changed] + [pairs[each] for each in changed & pairs.keys()]
        if tally_of(unpack_contribution(each) for each in summed if each) == candidate.found:
            return True
        # one that was not read may have come and gone
        return None if unread else False

    async def _look_again(self, candidates: Sequence[_Candidate]) -> list[_Candidate]:
        """Reads the places again; returns those where something else than expected is found."""
        again = list[_Candidate]()
        in_redis = [each for each in candidates if each.concerns is None]
        for each, value in zip(in_redis, await self._content.values([each.place for each in in_redis]), strict=True):
            again.append(_Candidate(each.place, value, looks=each.looks + 1))
        if alerts := [each for each in candidates if each.concerns is not None]:
            for each, value in zip(alerts, self._copy.topic_values([each.place[1] for each in alerts]), strict=True):
                parsed = parse_alert(each.place[1], value)
                again.append(_Candidate(each.place, topic_state(parsed and parsed[0]), each.concerns, looks=each.looks + 1))
        expected = self._expected(again)
        differing = [(each, value) for each, value in zip(again, expected, strict=True) if each.found != value]
        held = 0
        for each, _ in differing:
            size = await self._pairs_of(each.place[0]) if is_tally(each.place[0]) else 0
            if not 0 < size <= _MOST_PAIRS:
                continue
            held += size
            if held > _PAIRS_AT_ONCE:
                each.looks -= 1
                continue
            key, _ = each.place
            each.found, each.pairs = await self._content.sum(key, self._copy.pairs(session_of(key)), _MOST_PAIRS)
        return [each for each, value in differing if each.found != value]

    async def _pairs_of(self, key: bytes) -> int:
        """How many pairs a session has, of which this is the tally."""
        tally = (key, b"")
        (expected,), (found,) = self._copy.expected([tally]), await self._content.values([tally])
        return max(bookings_of(expected), bookings_of(found))

    def _expected(self, candidates: Sequence[_Candidate]) -> list[bytes | None]:
        places = [each.place for each in candidates if each.concerns is None]
        alerts = [each.concerns for each in candidates if each.concerns is not None]
        values, events = iter(self._copy.expected(places)), iter(self._copy.alert_events(alerts))
        return [next(values) if each.concerns is None else topic_state(next(events)) for each in candidates]

    def _add(self, candidate: _Candidate, expected: bytes | None, problem: str = "") -> None:
        report, (key, member) = self._report, candidate.place
        if len(report.differences) >= self._most:
            return
        if candidate.concerns is None:
            report.redis_differs |= not problem
        elif not problem:
            report.alerts[member] = self._right_record(candidate)
        problem = problem or ("missing" if candidate.found is None else "surplus" if expected is None else "different")
        values = (shown(candidate.place, expected), shown(candidate.place, candidate.found))
        report.differences.append(
            Difference(report.number, key.decode(errors="replace"), _shown_member(key, member), problem, *values)
        )

    def _right_record(self, candidate: _Candidate) -> bytes | None:
        """The record that the alerts topic should have last of an alert."""
        assert candidate.concerns is not None
        (event,) = self._copy.alert_events([candidate.concerns])
        if event is not None:
            return orjson.dumps(event)
        if candidate.found is None:
            return None
        # the tables never had it open, so there is no state to make an event of
        data = orjson.loads(candidate.found)
        data |= {"resolvedAt": data["openedAt"], "message": f"{data['kind']} no longer applies"}
        head = {"specversion": "1.0", "id": f"{data['alertId']}:resolved:verify", "source": SOURCE}
        tail = {"type": RESOLVED, "time": data["openedAt"], "datacontenttype": "application/json", "data": data}
        return orjson.dumps(head | tail)


def _shown_member(key: bytes, member: bytes) -> str:
    if key in (DEVICES, DEVICES_AT):
        return member.decode(errors="replace")
    if len(member) == 16:
        return guid(member)
    name, separator, identity = member.partition(b"\0")
    if separator and len(identity) == 16:
        return f"{name.decode(errors='replace')} {guid(identity)}"
    # the bucket of a booking's record follows its name
    return name.decode(errors="replace")
