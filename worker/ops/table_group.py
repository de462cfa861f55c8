"""The consumer group of new tables: which Redis it writes to."""

import sys
from uuid import uuid4

from aiokafka import AIOKafkaProducer

from worker.engine.partition_appender import read
from worker.ops.coverage import LoadError
from worker.read_model.identity import read_id
from worker.redis.client import Client
from worker.settings import Settings
from worker.stream.group import GroupRecord, check_settings, latest
from worker.topics import group_changelog


async def join_group(settings: Settings, producer: AIOKafkaProducer, client: Client) -> None:
    """Records for the group of new tables that it writes to this Redis, which the live group writes to.

    Raises:
        LoadError: this Redis has no id, or the group is recorded with another one.
        SettingsConflict: it is recorded with other settings.
    """
    topic = group_changelog(settings.topic_prefix, settings.tables)
    current = await read_id(client, settings.redis_namespace)
    if not current.id or current.replaces is not None:
        raise LoadError("no worker has confirmed that its group writes to this Redis: start the live workers, then repeat this")
    record = latest(each.value for each in await read(settings.kafka_client(), topic, 0, range(sys.maxsize)))
    if record is None:
        value = GroupRecord(current.id, "", settings.shaping()).encode()
        await producer.send_and_wait(topic, key=uuid4().hex.encode(), value=value, partition=0)
        return
    check_settings(record.settings, settings.shaping())
    if record.redis_id != current.id:
        raise LoadError(f"{topic} was made for another Redis: --abort this, and begin anew")
