"""What is committed on a real Kafka, and how partitions are given up."""

import asyncio
import threading
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from faust.transport.drivers import aiokafka as driver

from tests.support.services import Broker
from tests.support.station import Line, acknowledge, run, until
from worker.engine import faust_consumer, faust_thread


async def never(event: Any) -> None:
    """A handler whose sink is away."""


async def leave(event: Any) -> None:
    """A handler that leaves the acknowledgement to Faust."""


def all_of(line: Line, count: int, partition: int = 0) -> list[tuple[int, int]]:
    return [(partition, offset) for offset in range(count)]


async def _is(line: Line, offset: int) -> bool:
    return await line.committed() == offset


def test_acknowledged_batches_are_committed_before_revocation(kafka: Broker) -> None:
    """The revocation is called here, as Faust does in a rebalance; the rounds of tests/faults meet whole rebalances."""

    async def scenario(line: Line) -> None:
        await line.publish(10)
        async with line.station(acknowledge, broker_commit_interval=3600) as station:
            await until(lambda: len(station.offsets) == 10)
            assert await line.committed() is None
            await station.consumer.on_partitions_revoked(set(line.partitions))
            assert await line.committed() == 10

    run(kafka, scenario)


def test_stock_faust_revokes_without_committing_acknowledged(kafka: Broker) -> None:
    """What the test above would find without the engine; here the stock stream acknowledges."""

    async def scenario(line: Line) -> None:
        await line.publish(10)
        async with line.station(leave, broker_commit_interval=3600, stock=True) as station:
            await until(lambda: len(station.offsets) == 10)
            await until(lambda: not station.consumer._unacked_messages)
            await station.consumer.on_partitions_revoked(set(line.partitions))
            assert await line.committed() is None

    run(kafka, scenario)


def test_a_dead_sink_delays_no_revocation_and_is_not_committed(kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stock `wait_empty`: neither the revocation nor the stop of the app ever ends."""
    monkeypatch.setattr(faust_consumer, "DRAIN_SECONDS", 0.5)

    async def scenario(line: Line) -> None:
        await line.publish(10)
        async with line.station(never) as station:
            await until(lambda: station.offsets)
            await asyncio.wait_for(station.consumer.on_partitions_revoked(set(line.partitions)), 20)
        assert await line.committed() is None
        async with line.station(acknowledge) as again:
            await until(lambda: len(again.offsets) >= 10)
        assert again.offsets == all_of(line, 10)

    run(kafka, scenario)


async def fail(event: Any) -> None:
    """A handler whose sink is on fire."""
    raise RuntimeError("the sink is on fire")


def test_an_agent_that_raises_commits_nothing(kafka: Broker) -> None:
    """One that reads by `noack`, as the worker's does."""

    async def scenario(line: Line) -> None:
        await line.publish(10)
        async with line.station(fail) as station:
            await until(lambda: station.offsets)
            await station.consumer.commit()
        assert await line.committed() is None

    run(kafka, scenario)


def test_stock_faust_commits_what_its_agent_raised_at(kafka: Broker) -> None:
    """It acknowledges the event while the exception passes; nobody applied it, and it does not come again."""

    async def scenario(line: Line) -> None:
        await line.publish(10)
        async with line.station(fail, stock=True) as station:
            await until(lambda: station.offsets)
            await until(line.committed)
            assert (await line.committed() or 0) <= len(station.offsets)

    run(kafka, scenario)


def test_an_acknowledgement_of_an_earlier_assignment_is_refused(kafka: Broker) -> None:
    """Without the check of generations: a batch that was given up counts as done in the next assignment."""

    async def scenario(line: Line) -> None:
        await line.publish(10)
        held: list[Any] = []

        async def hold(event: Any) -> None:
            held.append(event)

        async with line.station(hold) as station:
            await until(lambda: held)
            station.app.consumer_generation_id += 1
            assert not held[0].ack()
            await station.consumer.commit()
        assert await line.committed() is None

    run(kafka, scenario)


def test_a_commit_that_failed_is_tried_again(kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stock `_should_commit`, which believes in what was tried: nothing is committed until more events come."""
    failed: list[Any] = []
    commit = driver.AIOKafkaConsumerThread._commit

    async def once(thread: Any, offsets: Any) -> bool:
        if not failed:
            failed.append(offsets)
            return False
        return await commit(thread, offsets)

    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "_commit", once)

    async def scenario(line: Line) -> None:
        await line.publish(10)
        async with line.station(acknowledge) as station:
            await until(lambda: failed)
            await until(lambda: _is(line, 10))
            # Kafka has it before its answer is here
            await until(lambda: station.consumer.committed_offsets == {line.partitions[0]: 10})

    run(kafka, scenario)


def test_a_commit_that_hangs_keeps_nothing_from_being_given_up(kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bound: the client repeats the commit for ever, and the revocation waits for it."""
    monkeypatch.setattr(faust_thread, "COMMIT_SECONDS", 0.3)
    asked = []
    hanging = threading.Event()
    hanging.set()
    commit = AIOKafkaConsumer.commit

    async def hang(client: Any, offsets: Any) -> None:
        asked.append(offsets)
        if hanging.is_set():
            await asyncio.sleep(3600)
        await commit(client, offsets)

    monkeypatch.setattr(AIOKafkaConsumer, "commit", hang)

    async def scenario(line: Line) -> None:
        await line.publish(10)
        async with line.station(acknowledge) as station:
            await until(lambda: asked)
            await asyncio.wait_for(station.consumer.wait_empty(), 20)
            assert await line.committed() is None
            hanging.clear()
            await until(lambda: _is(line, 10))

    run(kafka, scenario)
