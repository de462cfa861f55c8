"""The consumer group of new tables: which Redis it writes to."""

from uuid import uuid4

from aiokafka import AIOKafkaProducer

from worker.ops.coverage import LoadError
from worker.read_model.identity import NO_ID, read_id
from worker.redis.client import Client
from worker.settings import Settings
from worker.stream.group import GroupRecord, check_settings, recorded
from worker.topics import group_changelog


async def join_group(settings: Settings, producer: AIOKafkaProducer, client: Client) -> None:
    """Records for the group of new tables that it writes to this Redis, which the live group writes to.

    A Redis without an id is that of workers of an earlier version: the first worker of the new group gives it one.

    Raises:
        LoadError: the live group is about to agree on its Redis, or the new one is recorded with another Redis.
        SettingsConflict: it is recorded with other settings.
    """
    topic = group_changelog(settings.topic_prefix, settings.tables)
    current = await read_id(client, settings.redis_namespace)
    if current == NO_ID:
        return
    if current.replaces is not None:
        raise LoadError("no live worker has confirmed yet that its group writes to this Redis: start one, then repeat this")
    record = await recorded(settings)
    if record is None:
        value = GroupRecord(current.id, "", settings.shaping()).encode()
        await producer.send_and_wait(topic, key=uuid4().hex.encode(), value=value, partition=0)
        return
    check_settings(record.settings, settings.shaping())
    if record.redis_id != current.id:
        raise LoadError(f"{topic} was made for another Redis: --abort this, and begin anew")
