"""The consumer on a real Kafka: what it hands over, what it commits, how it gives partitions up."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.errors import GroupAuthorizationFailedError, NotLeaderForPartitionError
from faust.tables.recovery import Recovery
from faust.transport.drivers import aiokafka as driver

from tests.support.services import Broker
from tests.support.station import Line, acknowledge, run, until
from worker.engine import faust_consumer
from worker.engine.faust_recovery import SafeRecovery, SafeTableManager
from worker.engine.offset_tracker import MAX_IN_FLIGHT


async def never(event: Any) -> None:
    """A handler whose sink is away."""


def all_of(line: Line, count: int, partition: int = 0) -> list[tuple[int, int]]:
    return [(partition, offset) for offset in range(count)]


def test_records_that_the_client_skipped_are_fetched_after_all(kafka: Broker) -> None:
    """Without the offset tracker's check of offsets: 50 of 200 are never handed over, and are committed."""

    async def scenario(line: Line) -> None:
        await line.publish(200)
        skipped: list[int] = []

        async def skip_once(event: Any) -> None:
            if not skipped:
                skipped.append(event.message.offset + 51)
                await station.consumer._seek(line.partitions[0], skipped[0])
            event.ack()

        station = line.station(skip_once, broker_max_poll_records=20)
        async with station:
            await until(lambda: _is(line, 200))
        assert station.offsets == all_of(line, 200)

    run(kafka, scenario)


async def _is(line: Line, offset: int) -> bool:
    return await line.committed() == offset


def test_the_end_of_a_log_is_confirmed_while_nothing_is_fetched(kafka: Broker) -> None:
    """As many batches are in flight as are allowed, so that nothing is fetched; Kafka is asked, and may go away meanwhile."""

    async def scenario(line: Line) -> None:
        (tp,) = line.partitions
        done = asyncio.Event()

        async def hold(event: Any) -> None:
            await done.wait()
            event.ack()

        await line.publish(10)
        async with line.station(hold, broker_max_poll_records=1) as station:
            consumer = station.consumer
            await until(lambda: not consumer.tracker.has_room(tp))
            await line.publish(5)
            fetched = consumer.confirmed_end(tp)
            assert fetched is not None

            async def confirmed() -> bool:
                await consumer.confirm_ends()
                return bool(consumer.confirmed_end(tp).stable == 15)

            await until(confirmed)
            assert consumer.confirmed_end(tp).asked_at > fetched.asked_at
            consumer._thread.end_offsets = _unanswered
            before = consumer.confirmed_end(tp)
            await until(lambda: time.monotonic() - before.asked_at > faust_consumer.END_AGE_SECONDS)
            await consumer.confirm_ends()
            assert consumer.confirmed_end(tp) == before, "nobody knows more"
            done.set()

    run(kafka, scenario)


def test_batches_of_one_poll_are_acknowledged_each_by_itself(kafka: Broker) -> None:
    """One Faust message carries them; a partition whose sink is away keeps the others from nothing, nor from a quick stop."""

    async def scenario(line: Line) -> None:
        for partition in range(3):
            await line.publish(10, partition)
        polls: list[set[int]] = []
        held: list[Any] = []

        async def all_but_one(event: Any) -> None:
            if event.message.partition != 1:
                event.ack()
            else:
                # as a worker does: Faust itself holds a message weakly
                held.append(event)

        async with line.station(all_but_one) as station:
            consumer = station.consumer
            consumer.on_poll = lambda partitions: polls.append(set(partitions))

            async def committed() -> bool:
                return [await line.committed(partition) for partition in (0, 2)] == [10, 10]

            await until(committed)
            await until(lambda: consumer.tracker.in_flight > 0)
            assert {message.partition for message in consumer.unacked} == {1}
            assert set().union(*polls) <= {0, 1, 2}
        assert sorted(station.offsets) == [each for partition in range(3) for each in all_of(line, 10, partition)]
        assert await line.committed(1) is None

    run(kafka, scenario, partitions=3)


async def _unanswered(_partitions: Any) -> Any:
    await asyncio.sleep(3600)


async def drop(client: Any, count: int | None = None) -> None:
    """Fetches and drops what is there, or so many records of it, as a poll under way does in a rebalance."""

    async def fetch() -> Any:
        wanted = client._consumer.assignment()
        return await client._consumer._fetcher.fetched_records(wanted, timeout=5.0, max_records=count)

    assert await client.call_thread(fetch)


class Hasty(SafeRecovery):
    """Drops what is there between assignment and positioning."""

    async def _resume_streams(self, generation_id: int = 0) -> None:
        await drop(self.app.consumer._thread)  # type: ignore[attr-defined]
        await super()._resume_streams(generation_id)


class HastyManager(SafeTableManager):
    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = Hasty(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery


def test_records_dropped_before_the_first_commit_come_again(kafka: Broker) -> None:
    """With the stock `perform_seek`, which leaves a partition without a commit where it is: none of the 100 comes."""

    async def scenario(line: Line) -> None:
        await line.publish(100)
        async with line.station(acknowledge, TableManager=HastyManager) as station:
            await until(lambda: len(station.offsets) >= 100)
        assert station.offsets == all_of(line, 100)

    run(kafka, scenario)


@pytest.mark.parametrize("count", [5, None])
def test_records_dropped_before_the_tracker_begins_come_again(
    kafka: Broker, monkeypatch: pytest.MonkeyPatch, count: int | None
) -> None:
    """With an offset tracker that begins where the client stands the 5 dropped records never come, and are committed. Without
    a seek before the first poll, nothing comes of a partition of which all records were dropped, until another is appended."""
    stock = driver.Consumer.perform_seek

    async def seek_and_drop(consumer: faust_consumer.Consumer) -> None:
        await stock(consumer)
        await drop(consumer._thread, count)

    async def scenario(line: Line) -> None:
        await line.publish(100)
        monkeypatch.setattr(driver.Consumer, "perform_seek", seek_and_drop)
        async with line.station(acknowledge) as station:
            await until(lambda: _is(line, 100))
        assert station.offsets == all_of(line, 100)

    run(kafka, scenario)


def test_records_of_a_poll_before_a_rebalance_are_read_again(kafka: Broker) -> None:
    """A poll that began before a rebalance may end after the partitions were positioned. Without a seek before the next
    poll: the offset tracker misses the records when another comes after them, and here none does."""

    class Late(faust_consumer.Consumer):
        async def perform_seek(self) -> None:
            await super().perform_seek()
            await drop(self._thread)

    async def scenario(line: Line) -> None:
        await line.publish(10)
        async with line.station(acknowledge, Late) as station:
            await until(lambda: _is(line, 10))
        assert station.offsets == all_of(line, 10)

    run(kafka, scenario)


def test_a_leader_that_answers_no_list_offsets_delays_nothing(kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """With partitions left where the client finds them: it asks the old leader for as long as its metadata lasts, 5 minutes."""

    async def refuse(*_: Any) -> Any:
        raise NotLeaderForPartitionError

    async def scenario(line: Line) -> None:
        await line.publish(10)
        monkeypatch.setattr(Fetcher, "_proc_offset_request", refuse)
        async with line.station(acknowledge) as station:
            await until(lambda: len(station.offsets) == 10)

    run(kafka, scenario)


def test_a_log_that_begins_late_is_taken_from_its_begin(kafka: Broker) -> None:
    """Where the offset tracker accepts no jump that repeats: it seeks back to offset 0 for ever, none of the 60 comes."""

    async def scenario(line: Line) -> None:
        await line.publish(100)
        await line.trim(40)
        async with line.station(acknowledge) as station:
            await until(lambda: _is(line, 100))
        assert station.offsets == all_of(line, 100)[40:]

    run(kafka, scenario)


class Observed(faust_consumer.Consumer):
    """Says whether a poll is under way."""

    polling = False

    async def _getmany(self, active_partitions: Any, timeout: float) -> Any:
        self.polling = True
        return await super()._getmany(active_partitions, timeout)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, Any]]:
        async for each in super().getmany(timeout):
            yield each
        self.polling = False


def test_a_poll_that_ends_in_a_rebalance_keeps_batches_in_flight(kafka: Broker) -> None:
    """With the stock seek of `getmany` while flow is stopped: the batch ends within the drain, and is not committed."""

    async def scenario(line: Line) -> None:
        await line.publish(10)
        held: list[Any] = []

        async def hold(event: Any) -> None:
            held.append(event)

        async with line.station(hold, Observed) as station:
            consumer = station.consumer
            await until(lambda: held and consumer.polling)
            revoked = asyncio.create_task(consumer.on_partitions_revoked(set(line.partitions)))
            await until(lambda: not consumer.flow_active and not consumer.polling)
            assert held[0].ack()
            await revoked
            assert await _is(line, 10)

    run(kafka, scenario)


def test_a_step_of_the_recovery_that_hangs_ends_the_app(kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stock `_wait`: the recovery ends without a word, and the app idles for ever."""

    async def hang(client: Any, tp: Any) -> int:
        await asyncio.sleep(3600)
        return 0

    async def scenario(line: Line) -> None:
        station = line.station(acknowledge)
        station.app.conf.broker_request_timeout = 7.0
        monkeypatch.setattr(AIOKafkaConsumer, "committed", hang)
        async with station:
            await until(station.app._crashed.is_set, 30)
            assert isinstance(station.app.crash_reason, TimeoutError)

    run(kafka, scenario)


class Patient(faust_consumer.Consumer):
    """Polls for a minute instead of a second."""

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[Any, Any]]:
        async for each in super().getmany(60.0):
            yield each


def test_a_partition_with_room_again_joins_the_poll_under_way(kafka: Broker) -> None:
    """Without waking the poll: after two batches nothing comes until the poll for the other, idle partition ends."""

    async def scenario(line: Line) -> None:
        await line.publish(400)

        async def later(event: Any) -> None:
            asyncio.get_running_loop().call_later(0.005, event.ack)

        async with line.station(later, Patient, broker_max_poll_records=20) as station:
            await until(lambda: len(station.offsets) == 400, 30)
        assert station.offsets == all_of(line, 400)

    run(kafka, scenario, partitions=2)


def test_a_stuck_partition_is_paused_and_the_other_is_processed(kafka: Broker) -> None:
    """Without `saturated`: all 3,000 records of the stuck partition are handed over and pile up."""

    async def scenario(line: Line) -> None:
        await line.publish(3000, partition=0)
        await line.publish(3000, partition=1)

        async def one_is_stuck(event: Any) -> None:
            if event.message.partition == 1:
                event.ack()

        async with line.station(one_is_stuck, broker_max_poll_records=100) as station:
            await until(lambda: sum(p == 1 for p, _ in station.offsets) == 3000, 30)
            await until(lambda: _committed_is(line, 1, 3000))
            assert sum(p == 0 for p, _ in station.offsets) <= MAX_IN_FLIGHT * 100
            assert await line.committed(0) is None
            fetched = station.consumer._thread._consumer._fetcher._records
            assert len(fetched) <= 1, "the client keeps one fetch of a paused partition, and asks for no more"

    run(kafka, scenario, partitions=2)


async def _committed_is(line: Line, partition: int, offset: int) -> bool:
    return await line.committed(partition) == offset


def test_seeks_run_in_the_thread_of_the_client(kafka: Broker) -> None:
    """Stock Faust seeks from the main thread, while the fetcher of the client works on the same state."""

    async def scenario(line: Line) -> None:
        await line.publish(10)
        async with line.station(acknowledge) as station:
            await until(lambda: len(station.offsets) == 10)
            client, threads = station.consumer._thread, []
            seek = client.seek
            client.seek = lambda tp, offset: (threads.append(threading.current_thread()), seek(tp, offset))
            await station.consumer._seek(line.partitions[0], 3)
            assert threads == [client._thread]

    run(kafka, scenario)


def test_a_topic_that_was_made_anew_under_its_group_is_said(kafka: Broker) -> None:
    """Without the check: the records of the new topic are dropped without a word until it is as long as the old one."""

    async def scenario(line: Line) -> None:
        await line.publish(50)
        async with line.station(acknowledge):
            await until(lambda: _is(line, 50))
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
        await admin.start()
        await admin.delete_topics([line.topic])
        await until(lambda: _created(admin, line.topic))
        await admin.close()
        await line.publish(5)
        # deleting the topic deleted the group's offsets; a broker that was away meanwhile still has them
        await _commit(line, 50)
        async with line.station(acknowledge) as station:
            await until(station.app._crashed.is_set)
            assert isinstance(station.app.crash_reason, faust_consumer.OffsetRegression)
            assert "was recreated or has lost records" in str(station.app.crash_reason)

    run(kafka, scenario)


async def _created(admin: AIOKafkaAdminClient, topic: str) -> bool:
    answer = await admin.create_topics([NewTopic(topic, 1, 1)])
    return answer.topic_errors[0][1] == 0


async def _commit(line: Line, offset: int) -> None:
    from aiokafka import TopicPartition

    consumer = AIOKafkaConsumer(bootstrap_servers=line.kafka.bootstrap, group_id=line.group, enable_auto_commit=False)
    await consumer.start()
    try:
        tp = TopicPartition(line.topic, 0)
        consumer.assign([tp])
        await consumer.commit({tp: offset})
    finally:
        await consumer.stop()


def test_a_client_that_is_out_of_its_group_ends_the_app(kafka: Broker) -> None:
    """Without asking the coordinator at each poll: the app goes on with partitions that the group gives to others."""

    async def scenario(line: Line) -> None:
        await line.publish(10)
        async with line.station(acknowledge) as station:
            await until(lambda: len(station.offsets) == 10)
            thread = station.consumer._thread
            coordinator = thread._consumer._coordinator

            async def dies() -> None:
                coordinator._coordination_task.cancel()
                await asyncio.wait([coordinator._coordination_task])
                failed = asyncio.get_running_loop().create_future()
                failed.set_exception(GroupAuthorizationFailedError("g"))
                coordinator._coordination_task = failed

            await thread.call_thread(dies)
            await until(station.app._crashed.is_set)
            assert isinstance(station.app.crash_reason, GroupAuthorizationFailedError)

    run(kafka, scenario)


def test_a_commit_that_the_client_cancels_has_failed(kafka: Broker) -> None:
    """The client's own cancellation does not reach whoever commits: a stop would end in the middle."""

    async def scenario(line: Line) -> None:
        await line.publish(1)
        async with line.station(acknowledge) as station:
            await until(lambda: len(station.offsets) == 1)
            coordinator = station.consumer._thread._consumer._coordinator
            committing = coordinator._do_commit_offsets

            async def cancelled(*_: Any) -> None:
                raise asyncio.CancelledError

            coordinator._do_commit_offsets = cancelled
            assert await station.consumer._thread.commit({line.partitions[0]: 1}) is False
            coordinator._do_commit_offsets = committing
            assert await station.consumer._thread.commit({line.partitions[0]: 1}) is True

    run(kafka, scenario)


def test_a_full_queue_of_faust_stops_no_partition(kafka: Broker) -> None:
    """With the stock `on_buffer_full`: clearing the queue drops who would start the partition again, and it never is."""

    async def scenario(line: Line) -> None:
        async with line.station(acknowledge) as station:
            await until(station.consumer.positioned.is_set)
            station.consumer.on_buffer_full(line.partitions[0])
            station.app.flow_control.clear()
            await line.publish(10)
            await until(lambda: len(station.offsets) == 10)

    run(kafka, scenario)
