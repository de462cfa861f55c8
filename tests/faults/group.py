"""What Kafka and its consumer group say of a round: who has which partition, what is committed, what the cleaner did."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.protocol.group import LeaveGroupRequest

from tests.support.system import System

T = TypeVar("T")

#: What makes the cleaner take everything but the newest second.
_EAGER = {
    "min.compaction.lag.ms": "0",
    "segment.ms": "500",
    "min.cleanable.dirty.ratio": "0.01",
    "delete.retention.ms": "0",
}


def committed(system: System) -> dict[tuple[str, int], int]:
    """Committed offsets by (topic, partition)."""

    async def asking(admin: Any) -> dict[tuple[str, int], int]:
        found = await admin.list_consumer_group_offsets(system.settings.topic_prefix)
        return {(tp.topic, tp.partition): said.offset for tp, said in found.items()}

    return _admin(system, asking)


def members(system: System) -> list[set[tuple[str, int]]]:
    """What each member of the group has; empty while it rebalances."""

    async def asking(admin: Any) -> list[set[tuple[str, int]]]:
        (described,) = await admin.describe_consumer_groups([system.settings.topic_prefix])
        _code, _group, state, _type, _protocol, found, *_ = described.groups[0]
        if state != "Stable":
            return []
        assignments = [ConsumerProtocol.ASSIGNMENT.decode(member[4]) for member in found]
        return [{(topic, p) for topic, numbers in each.assignment for p in numbers} for each in assignments]

    return _admin(system, asking)


def forget_members(system: System) -> None:
    """Has the group forget members that are dead, as the session timeout would."""

    async def asking(admin: Any) -> None:
        group = system.settings.topic_prefix
        (described,) = await admin.describe_consumer_groups([group])
        coordinator = await admin.find_coordinator(group)
        for member_id, *_ in described.groups[0][5]:
            await admin._send_request(LeaveGroupRequest(group, member_id), coordinator)

    _admin(system, asking)


def set_compaction(system: System, *, eager: bool) -> None:
    """Lets the cleaner have the changelogs, or gives them back the settings that `topics create` gave them."""
    changes = _EAGER if eager else {"min.compaction.lag.ms": "3600000"}

    async def asking(admin: Any) -> None:
        kept = {"cleanup.policy": "compact", "max.message.bytes": str(2 * 1024 * 1024)}
        changelogs = (system.topics.attendance_changelog, system.topics.bookings_changelog)
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, {**kept, **changes}) for name in changelogs])

    _admin(system, asking)


def compacted(system: System) -> bool:
    """Whether the cleaner took records from every partition of the attendance changelog that has many."""

    async def asking() -> bool:
        consumer = AIOKafkaConsumer(**system.settings.kafka_client())
        await consumer.start()
        try:
            tps = [TopicPartition(system.topics.attendance_changelog, p) for p in range(system.settings.partitions)]
            consumer.assign(tps)
            begins, ends = await consumer.beginning_offsets(tps), await consumer.end_offsets(tps)
            await consumer.seek_to_beginning(*tps)
            found = dict.fromkeys(tps, 0)
            while any([await consumer.position(tp) < ends[tp] for tp in tps]):
                for tp, records in (await consumer.getmany(timeout_ms=200)).items():
                    found[tp] += len(records)
            return all(begins[tp] > 0 or found[tp] < 0.8 * (ends[tp] - begins[tp]) for tp in tps if ends[tp] > 100)
        finally:
            await consumer.stop()

    return asyncio.run(asking())


def _admin(system: System, ask: Callable[[Any], Awaitable[T]]) -> T:
    async def asking() -> T:
        admin: Any = AIOKafkaAdminClient(**system.settings.kafka_client())
        await admin.start()
        try:
            return await ask(admin)
        finally:
            await admin.close()

    return asyncio.run(asking())
