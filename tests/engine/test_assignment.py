"""The assignment of partitions on a real Kafka, where the leader of the group does not know the topics yet."""

from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient

from tests.support.services import Broker
from tests.support.station import Line, acknowledge, run, until


def held(*stations: Any) -> list[int]:
    return sorted(tp.partition for station in stations for tp in station.consumer.assignment())


def test_a_leader_that_knows_no_topic_assigns_once_it_does(kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without asking again: a broker that is away during the first request for metadata, and back before the client joins its
    group, leaves a leader that assigns nothing, and nobody asks again for five minutes."""
    stock, failed = AIOKafkaClient._metadata_update, []

    async def fail(client: AIOKafkaClient, metadata: Any, topics: Any) -> bool:
        if topics and len(failed) < 3:
            failed.append(topics)
            metadata.failed_update(None)
            return False
        return bool(await stock(client, metadata, topics))

    async def scenario(line: Line) -> None:
        monkeypatch.setattr(AIOKafkaClient, "_metadata_update", fail)
        async with line.station(acknowledge) as first, line.station(acknowledge) as second:
            await until(lambda: held(first, second) == [0, 1], 20)
            await line.publish(10)
            await until(lambda: len(first.offsets + second.offsets) == 10)
        assert len(failed) == 3

    run(kafka, scenario, partitions=2)


def test_a_leader_that_lost_its_topics_waits_before_it_assigns(kafka: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without waiting before it assigns: after one answer without the topics the group is assigned nothing, and gives all its
    partitions up."""
    stock, forgetful = AIOKafkaClient._metadata_update, []

    async def forget(client: AIOKafkaClient, metadata: Any, topics: Any) -> bool:
        updated = bool(await stock(client, metadata, topics))
        if client in forgetful:
            metadata._partitions = {}
        return updated

    async def scenario(line: Line) -> None:
        monkeypatch.setattr(AIOKafkaClient, "_metadata_update", forget)
        assigned: list[set[TopicPartition]] = []
        async with line.station(acknowledge) as leader:
            await until(lambda: held(leader) == [0, 1])
            leader.app.on_partitions_assigned.connect(_note(assigned), weak=False)
            client, coordinator = (getattr(leader.consumer._thread._consumer, name) for name in ("_client", "_coordinator"))
            generation = coordinator.generation
            forgetful.append(client)
            await leader.consumer._thread.call_thread(client.force_metadata_update)

            async def rejoin() -> None:
                coordinator.request_rejoin()

            await leader.consumer._thread.call_thread(rejoin)
            await until(lambda: coordinator.generation > generation, what="the leader is asked to assign")
            forgetful.clear()
            await until(lambda: assigned)
            assert assigned == [{*line.partitions}]

    run(kafka, scenario, partitions=2)


def _note(assigned: list[set[TopicPartition]]) -> Callable[..., Any]:
    async def on_assigned(_app: Any, partitions: set[TopicPartition], **_: Any) -> None:
        assigned.append(partitions)

    return on_assigned
