"""Folds the topics of a partition from the first record on into new tables, with the worker's own classes."""

import asyncio
import sys
from collections.abc import Mapping
from contextlib import aclosing

from aiokafka import TopicPartition

from worker.domain.devices import device_rows
from worker.domain.rows import BOOKINGS, EVENTS, PARTITION_GROUP, Applied
from worker.engine.fetching import Fetched
from worker.ops.coverage import Coverage
from worker.ops.load_markers import find_markers
from worker.ops.load_sources import OnReached, read_part
from worker.settings import Settings
from worker.stream.booking_store import Bookings
from worker.stream.resources import Resources


class Refold:
    """The source of new tables that is everything in topics and archives.

    Args:
        coverage: where it is; without gaps.
        source: settings of the live tables, whose markers of erased bookings are taken over.
    """

    def __init__(self, coverage: Coverage, source: Settings) -> None:
        self._coverage = coverage
        self._source = source

    @property
    def total(self) -> int:
        """Offsets of both topics."""
        return self._coverage.total

    @property
    def ends(self) -> Mapping[TopicPartition, int]:
        """Up to where each partition of both topics is in the tables then."""
        return {tp: part.end for tp, part in self._coverage.parts.items()}

    async def fill(
        self, number: int, resources: Resources, bookings: Bookings, stop: asyncio.Event, on_reached: OnReached
    ) -> bool:
        """Folds a partition, from where its tables are; returns False if it was stopped."""
        if markers := await find_markers(self._source, number):
            changes = {PARTITION_GROUP: markers}
            await resources.until_written("changelog", number, resources.attendance.flush, number, changes)
        await bookings.open()
        partition = _Partition(number, resources, bookings)
        # booking records first: then no alert opens of which the records know better
        for topic, name in ((BOOKINGS, resources.topics.bookings), (EVENTS, resources.topics.events)):
            tp = TopicPartition(name, number)
            part = self._coverage.parts[tp]
            client, begin = resources.settings.kafka_client(), bookings.applied.ends[topic]
            async with aclosing(read_part(client, tp, part, begin)) as parts:
                async for fetched in parts:
                    await partition.fold(topic, fetched)
                    on_reached(tp, min(fetched.end, part.end))
                    if stop.is_set():
                        return False
            on_reached(tp, part.end)
        # nothing was emitted that would have to be resolved
        await bookings.remove_erased(list(dict.fromkeys([*bookings.unfinished, *partition.erased])))
        return True


class _Partition:
    """Folds into the tables of one partition."""

    def __init__(self, number: int, resources: Resources, bookings: Bookings) -> None:
        self._number = number
        self._resources = resources
        self._bookings = bookings
        self._applied = bookings.applied
        self.erased: list[str] = []
        """Bookings whose rows are to leave."""

    async def fold(self, topic: int, fetched: Fetched) -> None:
        """Folds a batch of a topic (see `worker.domain.rows`), and stores what it changes."""
        bookings, resources = self._bookings, self._resources
        # one partition at a time, as in a worker
        async with resources.folding:
            # a record of another partition is left out: the live workers have sent it there
            contents = await bookings.decode(topic, fetched.records)
            devices = device_rows(bookings.devices.update({name: each.newest for name, each in contents.sources.items()}))
            # nothing is projected before all is folded, so nothing earlier is left to be removed
            changes = await bookings.fold(contents, is_redelivery=False, is_known=True, projected_offset=sys.maxsize)
        self._applied = self._applied.merged(Applied.of(topic, fetched.end, contents.newest))
        await bookings.store(changes, devices, self._applied, {})
        self.erased += changes.erasing
