"""Compares one partition's tables, Redis and alerts topic, folds a window of its events again, and has it repaired."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from time import monotonic
from typing import NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from worker.domain.booking_state import apply_records
from worker.domain.rows import BOOKINGS, EVENTS, Ends, changed_rows
from worker.engine.log_reader import find_windows, read_windows
from worker.engine.stores.base import Store
from worker.kafka import Message, committed_offsets, open_producer, send_all
from worker.ops.comparison import Comparison
from worker.ops.partition_report import MOST_DIFFERENCES, TABLES, Difference, PartitionReport
from worker.ops.table_copy import TableCopy
from worker.read_model.content import PartitionContent
from worker.read_model.freshness import STALE_AFTER, Partition
from worker.read_model.keys import PartitionKeys
from worker.read_model.lua_scripts import REQUEST_REPAIR
from worker.read_model.watermark import parse_watermark, watermark_command
from worker.redis.client import Client
from worker.redis.scripts import raise_first_error, run
from worker.settings import Settings
from worker.stream.decode_batch import decode_batch
from worker.topics import TopicNames, partition_of

_ATTEMPTS = 3
#: How long Redis and the committed offsets may take to reach the tables without any progress, seconds.
_PATIENCE = 60.0
_POLL_SECONDS = 0.1


class Window(NamedTuple):
    """A part of the events topic: from a time (microseconds) or an offset on."""

    begin: int
    by_time: bool


OnProgress = Callable[[int], None]


class Unreached(Exception):
    """Redis or the committed offsets do not reach what the tables have applied."""


class PartitionCheck:
    """Compares one partition.

    Args:
        consumer: for the ends of topics, see `worker.engine.log_reader.find_windows`.
        admin: started, for the committed offsets.
    """

    def __init__(
        self,
        settings: Settings,
        client: Client,
        consumer: AIOKafkaConsumer,
        admin: AIOKafkaAdminClient,
        namespace: str,
        number: int,
        store: Store,
        on_progress: OnProgress,
    ) -> None:
        self.copy = TableCopy(settings, number, store, consumer, on_progress)
        self._settings = settings
        self._topics = TopicNames.of(settings.topic_prefix)
        self._client = client
        self._admin = admin
        self._number = number
        self._keys = PartitionKeys(namespace, number)
        self._on_progress = on_progress
        self._is_filled = False

    async def run(self, window: Window | None, *, only_alerts: bool = False) -> PartitionReport:
        """Compares Redis and the alerts topic, or only that one, and folds the window."""
        report = PartitionReport(self._number)
        try:
            for _ in range(_ATTEMPTS):
                report = PartitionReport(self._number)
                if not self._is_filled:
                    await self.copy.fill()
                    self._is_filled = True
                else:
                    await self.copy.follow()
                if await self._compare(report, only_alerts=only_alerts):
                    break
            else:
                raise Unreached("its read models were repaired again and again meanwhile: look at the worker's log")
            if window is not None:
                await self._fold_window(window, report)
        except Unreached as error:
            report.unreached = str(error)
        return report

    async def repair(self, found: PartitionReport) -> PartitionReport:
        """Has the owner repair what differs, and compares again."""
        if found.alerts:
            await self._publish(found.alerts)
        try:
            if found.redis_differs:
                await self._have_repaired()
        except Unreached as error:
            return PartitionReport(self._number, differences=found.differences, unreached=str(error))
        return await self.run(None)

    async def correct_alerts(self, operation: str) -> int:
        """Compares the alerts topic with the tables, and publishes what they say of each alert that differs; returns how many.

        Args:
            operation: by whose id those that open or resolve are marked as a backfill.

        Raises:
            Unreached: the committed offsets do not reach the tables.
        """
        count = 0
        while True:
            report = await self.run(None, only_alerts=True)
            if report.unreached:
                raise Unreached(f"partition {self._number}: {report.unreached}")
            if not report.alerts:
                return count
            await self._publish({key: value and _marked(value, operation) for key, value in report.alerts.items()})
            count += len(report.alerts)

    async def _compare(self, report: PartitionReport, *, only_alerts: bool) -> bool:
        """Compares Redis and alerts topic; returns False if a repair replaced the keys meanwhile."""
        generation = await self._reached(with_commits=False)

        async def reached(with_commits: bool) -> bool:
            return await self._reached(with_commits=with_commits) == generation

        content = PartitionContent(self._client, self._keys, generation)
        return await Comparison(self.copy, content, report, reached, self._on_progress).run(only_alerts=only_alerts)

    async def _fold_window(self, window: Window, report: PartitionReport) -> None:
        """Folds events again: in tables that have them all, that changes no row."""
        client, applied = self._settings.kafka_client(), self.copy.applied
        windows = await find_windows(client, self._topics.events, [self._number], window.begin, by_time=window.by_time)
        tp = TopicPartition(self._topics.events, self._number)
        windows = {tp: range(windows[tp].start, min(windows[tp].stop, applied.events))}
        async with aclosing(read_windows(client, windows)) as parts:
            async for _, fetched in parts:
                batch = await decode_batch(EVENTS, fetched.records, self._is_ours, self.copy.rules)
                names = list(batch.events)
                states = self.copy.states([name.encode() for name in names])
                changes = apply_records(
                    [(state, batch.events[name], ()) for name, state in zip(names, states, strict=True)], self.copy.rules
                )
                for change in changes:
                    rows, _ = changed_rows(change)
                    where = f"offsets {fetched.begin} to {fetched.end - 1}"
                    for suffix in list(rows)[: MOST_DIFFERENCES - len(report.differences)]:
                        session = suffix.partition(b"\0")[0].decode()
                        member = f"booking {change.state.booking_id}" + (f", session {session}" if session else "")
                        difference = Difference(self._number, TABLES.decode(), member, "missing", f"events of {where}", None)
                        report.differences.append(difference)
                for source in self.copy.lacking_sources(
                    {source: each.newest for source, each in batch.contents.sources.items()}
                ):
                    if len(report.differences) < MOST_DIFFERENCES:
                        where = f"events of offsets {fetched.begin} to {fetched.end - 1}"
                        member = f"device {source}"
                        difference = Difference(self._number, TABLES.decode(), member, "missing", where, None)
                        report.differences.append(difference)
                report.events += len(fetched.records)
                self._on_progress(len(fetched.records))

    def _is_ours(self, booking_id: str) -> bool:
        return partition_of(booking_id, self._settings.partitions) == self._number

    async def _reached(self, *, with_commits: bool) -> str:
        """Waits until Redis (and the committed offsets) have reached the tables; returns the live key generation.

        Raises:
            Unreached: they do not; the message says why.
        """
        goal, last, deadline = self.copy.applied.ends, None, monotonic() + _PATIENCE
        while True:
            partition = await self._watermark()
            redis = _ends(partition)
            committed = await self._committed() if with_commits else goal
            behind = [
                name
                for name, ends in (("the read models", redis), ("the committed offsets", committed))
                if ends[EVENTS] < goal[EVENTS] or ends[BOOKINGS] < goal[BOOKINGS]
            ]
            is_live = partition.state == "live" and "keys" in partition.mark and "building" not in partition.mark
            if is_live and not behind:
                return partition.mark["keys"]
            state = (redis, committed, partition.state)
            if state != last:
                last, deadline = state, monotonic() + _PATIENCE
            if not partition.has_owner or monotonic() > deadline:
                what = f"{' and '.join(behind)} are behind the tables" if behind else f"it is {partition.state}"
                cure = "no worker owns it: start one" if not partition.has_owner else "look at its worker's log"
                raise Unreached(f"{what}, and {cure}; then verify again")
            await asyncio.sleep(_POLL_SECONDS)

    async def _committed(self) -> Ends:
        tps = [TopicPartition(topic, self._number) for topic in (self._topics.events, self._topics.bookings)]
        found = await committed_offsets(self._admin, self._settings.group, tps)
        events, bookings = (found.get(tp, 0) for tp in tps)
        return events, bookings

    async def _have_repaired(self) -> None:
        """Asks the owner to repair the read models, and waits until it has."""
        before = await self._generation()
        deadline = monotonic() + _PATIENCE
        if before is not None:
            await run(self._client, REQUEST_REPAIR, self._keys.watermark, before)
        while True:
            partition = await self._watermark()
            if partition.state == "live" and partition.mark.get("keys") not in (None, before):
                return
            if partition.state != "live" and partition.age <= STALE_AFTER:
                deadline = monotonic() + _PATIENCE
            if not partition.has_owner:
                raise Unreached(
                    "the repair is requested, but no worker owns it: start one, which repairs it; then verify again"
                )
            if monotonic() > deadline:
                raise Unreached("its worker has not begun the repair that was requested: look at its log; then verify again")
            await asyncio.sleep(_POLL_SECONDS)

    async def _publish(self, records: Mapping[bytes, bytes | None]) -> None:
        # the owner finds them as foreign writes, and appends what holds by then behind them
        async with open_producer(self._settings) as producer:
            await send_all(producer, (Message(self._topics.alerts, self._number, key, value) for key, value in records.items()))

    async def _generation(self) -> str | None:
        partition = await self._watermark()
        return partition.mark.get("keys") if "building" not in partition.mark else None

    async def _watermark(self) -> Partition:
        (answer,) = raise_first_error(await self._client.ask([watermark_command(self._keys.watermark)]))
        return parse_watermark(self._number, answer)


def _marked(value: bytes, operation: str) -> bytes:
    """An alert's event, with the operation that published it."""
    return orjson.dumps({**orjson.loads(value), "backfill": operation})


def _ends(partition: Partition) -> Ends:
    return partition.number_of("events.offset"), partition.number_of("bookings.offset")
