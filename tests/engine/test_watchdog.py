"""What the watchdog takes for a stall, by a clock that the test moves; and on a real Kafka, where something wedges."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from faust.exceptions import ConsumerNotStarted
from faust.tables.recovery import Recovery, ServiceStopped
from faust.types import TP

from tests.support.services import Broker
from tests.support.station import Line, acknowledge, run, until
from worker import tasks
from worker.engine.faust_recovery import SafeRecovery, SafeTableManager
from worker.engine.fetching import Fetched
from worker.engine.offset_tracker import MAX_IN_FLIGHT, OffsetTracker
from worker.engine.progress import CALL_FACTOR, Progress, calling, heartbeat, waiting
from worker.engine.watchdog import CHECK_SECONDS, Stalled, Watchdog, ends_of

LIMIT = 30.0
SEEKING = 120.0
ONE, OTHER = TP("events", 0), TP("events", 1)


class Held:
    """What the watchdog asks of a consumer, said by a test; and a Kafka with an end for each partition."""

    def __init__(self, *partitions: TP) -> None:
        self.partitions = set(partitions)
        self.app = SimpleNamespace(consumer_generation_id=1)
        self.positioned = asyncio.Event()
        self.tracker = OffsetTracker()
        self.unreadable: dict[TP, object] = {}
        self.committed_offsets: dict[TP, int] = {}
        self.ends: dict[TP, int] | None = dict.fromkeys(partitions, 100)
        self.now = 1000.0
        self.asked = 0
        self.watchdog = Watchdog(lambda: self, self._ends, LIMIT, SEEKING, lambda: self.now)  # type: ignore[arg-type, return-value]

    async def _ends(self, partitions: set[TP]) -> dict[TP, int] | None:
        self.asked += 1
        return self.ends

    def assignment(self) -> set[TP]:
        return self.partitions

    def begin(self) -> None:
        """Positioned, everything at offset 10."""
        self.positioned.set()
        self.tracker.restart(dict.fromkeys(self.partitions, 10))

    def take(self, tp: TP, end: int) -> None:
        first = self.tracker.progress_of(tp).taken or 0
        self.tracker.take(tp, Fetched(first, [SimpleNamespace(offset=offset) for offset in range(first, end)], end))

    def done(self, tp: TP, end: int) -> None:
        self.tracker.complete(tp, end)

    def passes(self, seconds: float) -> None:
        """Looks every few seconds for so long; raises Stalled."""
        for _ in range(int(seconds / CHECK_SECONDS)):
            self.now += CHECK_SECONDS
            asyncio.run(self.watchdog.check())

    def stalls_within(self, seconds: float) -> str:
        with pytest.raises(Stalled) as stalled:
            self.passes(seconds)
        return str(stalled.value)


@pytest.fixture
def held() -> Held:
    return Held(ONE, OTHER)


def test_a_batch_that_is_never_acknowledged_is_a_stall(held: Held) -> None:
    held.begin()
    held.take(ONE, 20)
    end = 10
    for _ in range(5):
        held.take(OTHER, end + 5)
        held.done(OTHER, end + 5)
        held.committed_offsets[OTHER] = end = end + 5
        held.passes(5)
    message = held.stalls_within(30)
    assert "events partition 0 was completed" in message
    assert "delivered 20, completed 10, committed None" in message


def test_a_partition_of_which_nothing_is_fetched_is_a_stall(held: Held) -> None:
    held.begin()
    held.passes(LIMIT)
    held.stalls_within(20)


def test_a_partition_at_the_end_of_its_topic_is_no_stall(held: Held) -> None:
    held.begin()
    held.ends = {ONE: 10, OTHER: 10}
    held.passes(600)
    assert held.asked < 25, "an idle worker hardly asks"
    held.ends = {ONE: 10, OTHER: 11}
    assert "partition 1" in held.stalls_within(2 * LIMIT + 10)


def test_an_assignment_that_is_never_positioned_is_a_stall(held: Held) -> None:
    held.passes(SEEKING - 10)
    held.stalls_within(30)


def test_completed_and_never_committed_is_a_stall(held: Held) -> None:
    """A worker that Kafka has put out of the group: its batches go on, its commits are refused."""
    held.begin()
    for end in range(20, 35):
        held.take(ONE, end)
        held.done(ONE, end)
        held.ends = {ONE: end + 50, OTHER: 10}
        held.passes(2)
    assert "partition 0 was committed" in held.stalls_within(20)


def test_a_worker_without_partitions_is_no_stall(held: Held) -> None:
    held.partitions.clear()
    held.passes(600)

    def not_started() -> set[TP]:
        raise ConsumerNotStarted

    held.assignment = not_started  # type: ignore[method-assign]
    held.passes(600)


def test_a_new_assignment_has_the_full_time(held: Held) -> None:
    held.begin()
    held.passes(LIMIT - 4)
    held.app.consumer_generation_id += 1
    held.passes(LIMIT - 4)


def test_while_kafka_does_not_answer_nothing_is_a_stall(held: Held) -> None:
    held.begin()
    held.ends = None
    held.passes(600)
    held.ends = {ONE: 100, OTHER: 100}
    held.passes(LIMIT / 2 - 2)
    held.stalls_within(2 * LIMIT)


def test_a_process_that_was_stopped_has_the_rest_of_its_time(held: Held) -> None:
    held.begin()
    held.passes(10)
    held.now += 3600
    held.passes(10)


def test_known_waits_are_no_stall_and_calls_may_take_longer(held: Held) -> None:
    """Redis away for hours; then a call of which nothing is heard; then work that says how it goes on."""
    held.begin()
    held.partitions = {ONE}

    async def wait() -> None:
        with waiting():
            await asyncio.to_thread(held.passes, 4 * 3600)
        with calling():
            await asyncio.to_thread(held.passes, CALL_FACTOR * LIMIT)
        for _ in range(20):
            heartbeat()
            await asyncio.to_thread(held.passes, LIMIT - 10)

    progress = held.watchdog.progress[0] = Progress()
    asyncio.run(progress.follow(wait()))
    assert (progress.waits, progress.calls) == (0, 0)
    held.stalls_within(2 * LIMIT)


def watched(line: Line, station: Any, limit: float = 1.0) -> Watchdog:
    client = {"bootstrap_servers": line.kafka.bootstrap}
    return Watchdog(lambda: station.consumer, ends_of(client), limit, limit)


async def stalls(dog: Watchdog) -> str:
    """Has it look until it finds a stall, 30 seconds at most."""
    said: list[str] = []

    async def check() -> bool:
        try:
            await dog.check()
        except Stalled as stalled:
            said.append(str(stalled))
        return bool(said)

    await until(check, 30, "the watchdog finds no stall")
    return said[0]


def test_a_swallowed_acknowledgement_is_found(kafka: Broker) -> None:
    async def scenario(line: Line) -> None:
        await line.publish(10)

        async def swallow(event: Any) -> None:
            """Loses it."""

        async with line.station(swallow) as station:
            assert "delivered 10, completed 0" in await stalls(watched(line, station))

    run(kafka, scenario)


def test_a_partition_that_is_paused_for_ever_is_found(kafka: Broker) -> None:
    async def scenario(line: Line) -> None:
        async with line.station(acknowledge) as station:
            await until(station.consumer.positioned.is_set)
            station.consumer.pause_partitions({line.partitions[0]})
            await line.publish(10, partition=0)
            await line.publish(10, partition=1)
            assert "partition 0 was completed" in await stalls(watched(line, station))
            assert len(station.offsets) == 10

    run(kafka, scenario, partitions=2)


def test_a_dead_fetcher_is_found(kafka: Broker) -> None:
    """Stock Faust ends it on a cancellation, without a crash."""

    async def scenario(line: Line) -> None:
        async with line.station(acknowledge) as station:
            await until(station.consumer.positioned.is_set)
            await station.app._fetcher.stop()
            await line.publish(10)
            assert "delivered 0" in await stalls(watched(line, station))

    run(kafka, scenario)


class Dying(SafeRecovery):
    """Ends without a word, as the stock one does when a step takes too long."""

    async def _resume_streams(self, generation_id: int = 0) -> None:
        raise ServiceStopped


class DyingManager(SafeTableManager):
    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = Dying(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery


def test_a_dead_recovery_is_found(kafka: Broker) -> None:
    """An app's start waits for its recovery, so this one never ends; a worker's watchdog does not wait for it."""

    async def scenario(line: Line) -> None:
        await line.publish(10)
        station = line.station(acknowledge, TableManager=DyingManager)
        starting = asyncio.create_task(station.app.start())
        try:
            assert "delivered None" in await stalls(watched(line, station))
            assert not starting.done()
        finally:
            await station.__aexit__()
            await tasks.cancel_all([starting])

    run(kafka, scenario)


def test_a_client_that_left_its_group_for_not_polling_is_found(kafka: Broker) -> None:
    """All that it may hold is in flight, so nothing is polled, and the client leaves; it does not come back by itself."""

    async def scenario(line: Line) -> None:
        await line.publish(100)

        async def never(event: Any) -> None:
            """Its sink is away, and nobody says so."""

        async with line.station(never, broker_max_poll_interval=1, broker_max_poll_records=10) as station:
            await until(lambda: len(station.offsets) == 10 * MAX_IN_FLIGHT)
            assert "completed 0" in await stalls(watched(line, station, 3.0))

    run(kafka, scenario)


async def _looks_often(dog: Watchdog) -> None:
    """For twenty times as long as the dog lets anything stand still; it raises where it sees a stall."""
    for _ in range(20):
        await dog.check()
        await asyncio.sleep(0.1)


def test_an_idle_group_is_no_stall(kafka: Broker) -> None:
    async def scenario(line: Line) -> None:
        await line.publish(10)
        async with line.station(acknowledge) as station:
            dog = watched(line, station, 0.1)
            await until(lambda: station.consumer.committed_offsets)
            await _looks_often(dog)

    run(kafka, scenario)


def test_a_log_that_retention_has_emptied_is_no_stall(kafka: Broker) -> None:
    """With its end alone: nothing of the 10 can ever be completed, and every worker of the group ends, again and again."""

    async def scenario(line: Line) -> None:
        await line.publish(10)
        await line.trim(10)
        async with line.station(acknowledge) as station:
            dog = watched(line, station, 0.1)
            await until(station.consumer.positioned.is_set)
            await _looks_often(dog)

    run(kafka, scenario)
