"""What holds for all workers of a group: the Redis that they write to, and the settings that shape results.

It is recorded in a topic of one partition, which a worker reads to its end before it joins the group, so that a worker with
another Redis or other settings never makes the others rebalance. Each record names the id that it replaces, and of several
that replace the same one the first in the log holds: workers that start at the same time agree without a lock.
"""

import asyncio
import sys
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import NamedTuple
from uuid import uuid4

import orjson
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code

from worker.engine.partition_appender import read
from worker.read_model.identity import NO_ID, RedisId, heartbeats, read_id, replace_id
from worker.read_model.keys import namespace
from worker.redis.client import Client
from worker.settings import Settings
from worker.stream.errors import SettingsConflict
from worker.stream.retry import until_done
from worker.topics import group_changelog

log = structlog.get_logger(__name__)

_ASK_AGAIN_SECONDS = 0.5
#: Running workers write the id back within this time after a flush, seconds.
_WRITTEN_BACK_SECONDS = 3.0
#: A heartbeat that has not changed for so long is nobody's any more, seconds.
_SILENT_SECONDS = 5.0
_PROBE_SECONDS = 10.0


class GroupRecord(NamedTuple):
    """What was recorded for a group."""

    redis_id: str
    replaces: str
    """The id that was recorded before; empty where there was none."""
    settings: Mapping[str, int]
    """As `Settings.shaping` has them."""

    def encode(self) -> bytes:
        return orjson.dumps({"redisId": self.redis_id, "replaces": self.replaces, "settings": dict(self.settings)})


def latest(values: Iterable[bytes | None]) -> GroupRecord | None:
    """The record that holds, given all of the topic in the order of the log. What is no such record counts for nothing."""
    holds: GroupRecord | None = None
    for value in values:
        record = _decode(value)
        if record is not None and (holds is None or record.replaces == holds.redis_id):
            holds = record
    return holds


class Group:
    """One worker's part in its group."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer, redis: Client) -> None:
        self._settings = settings
        self._producer = producer
        self._redis = redis
        self._id = ""

    async def agree(self) -> None:
        """Before the worker joins the group: its Redis and its settings are the group's, or become so in an empty group.

        Raises:
            SettingsConflict: they are not.
        """
        while True:
            record, found = await self._look()
            if record is not None and found.id == record.redis_id:
                return await self._confirm(found)
            if found != NO_ID and found.replaces is None:
                if record is not None:
                    raise self._is_another(found)
                await self._refuse_where_others_write()
            elif record is not None and await self._has_members():
                # those that run write the id back, those that died are forgotten after the session timeout
                await self._wait_for_members(found)
                continue
            claim = await self._claim(found, record.redis_id if record is not None else "")
            if claim is not None:
                record, _ = await self._record(claim)
                if record is None or record.redis_id != claim.id:
                    raise self._is_another(claim)
                return await self._confirm(claim)

    async def check(self) -> None:
        """While the worker is a member: its Redis is still the one that is recorded.

        Raises:
            SettingsConflict: it is not.
        """
        record, found = await self._look()
        if record is not None and found.id != record.redis_id:
            if found.replaces == record.redis_id:
                # a worker that was starting found this Redis flushed, and had not recorded its claim yet, or never will
                record, _ = await self._record(found)
            elif record.redis_id == self._id and (found == NO_ID or found.replaces is not None):
                found = await self._replace(found, RedisId(self._id))
        if record is None or found.id != record.redis_id:
            raise self._is_another(found)
        await self._confirm(found)

    async def beat(self) -> None:
        """Each second: writes the id back where Redis was flushed.

        Raises:
            SettingsConflict: somebody has given this Redis another id.
        """
        found = await replace_id(self._redis, self._settings.redis_namespace, NO_ID, RedisId(self._id))
        if found.id != self._id:
            async with asyncio.timeout(_PROBE_SECONDS):
                await self.check()

    async def _look(self) -> tuple[GroupRecord | None, RedisId]:
        record = await until_done("kafka", self._recorded)
        return record, await until_done("redis", lambda: read_id(self._redis, self._settings.redis_namespace))

    async def _recorded(self) -> GroupRecord | None:
        records = await read(self._settings.kafka_client(), self._topic, 0, range(sys.maxsize))
        record = latest(each.value for each in records)
        if record is not None:
            check_settings(record.settings, self._settings.shaping())
        return record

    async def _claim(self, found: RedisId, recorded: str) -> RedisId | None:
        """This Redis' claim to become the recorded one, by whomever; None where it was given another id meanwhile."""
        if found.replaces == recorded:
            return found
        now = await self._replace(found, RedisId(uuid4().hex, recorded))
        return now if now.replaces == recorded else None

    async def _record(self, claim: RedisId) -> tuple[GroupRecord | None, RedisId]:
        """Records a claim; what holds then."""
        record = GroupRecord(claim.id, claim.replaces or "", self._settings.shaping())

        async def send() -> None:
            # under a key of its own: compaction must leave the first of two that replace the same
            await self._producer.send_and_wait(self._topic, key=claim.id.encode(), value=record.encode(), partition=0)

        await until_done("kafka", send)
        return await self._look()

    async def _confirm(self, found: RedisId) -> None:
        """The id of this Redis is the recorded one."""
        self._id = found.id
        if found.replaces is not None:
            await self._replace(found, RedisId(found.id))

    async def _replace(self, known: RedisId, new: RedisId) -> RedisId:
        return await until_done("redis", lambda: replace_id(self._redis, self._settings.redis_namespace, known, new))

    async def _wait_for_members(self, before: RedisId) -> None:
        """Until somebody has given this Redis an id, or nobody is in the group."""
        log.warning("waiting", what="group", reason="this Redis has nothing of the group, whose workers Kafka still knows")
        seconds = self._settings.session_timeout.total_seconds() + _WRITTEN_BACK_SECONDS
        end = monotonic() + seconds
        while await self._has_members():
            # any other id: those who started beside us may have seen the group without members, and taken over
            if await until_done("redis", lambda: read_id(self._redis, self._settings.redis_namespace)) != before:
                break
            if monotonic() > end:
                raise SettingsConflict(
                    f"ATTENDANCE_REDIS: the Redis at {self._where} has nothing of this group, whose workers write to "
                    "another one: set ATTENDANCE_REDIS to what they have"
                )
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
        log.info("goes on", what="group")

    async def _refuse_where_others_write(self) -> None:
        """An id of which the topics know nothing: another group's, or left from topics that are no more."""
        if await self._has_members():
            return  # workers of a version that recorded nothing
        base, count = self._settings.redis_namespace, self._settings.partitions

        async def beats() -> list[bytes | None]:
            return await heartbeats(self._redis, namespace(base), count)

        before = await until_done("redis", beats)
        await asyncio.sleep(_SILENT_SECONDS)
        if await until_done("redis", beats) != before:
            raise SettingsConflict(
                f"ATTENDANCE_NAMESPACE: workers of another group write under {base} to the Redis at {self._where}: "
                "set another namespace, or ATTENDANCE_BROKER and ATTENDANCE_TOPIC_PREFIX as they have them"
            )

    async def _has_members(self) -> bool:
        return await until_done("kafka", lambda: has_members(self._settings))

    def _is_another(self, found: RedisId) -> SettingsConflict:
        return SettingsConflict(
            f"ATTENDANCE_REDIS: the Redis at {self._where} is not the one that this group writes to (its id "
            f"{found.id[:8]} is not the recorded one): set ATTENDANCE_REDIS to what the group's workers have; if this one "
            f"is to replace it, stop them all and run `redis-cli HDEL {self._settings.redis_namespace}:live redisId` here"
        )

    @property
    def _topic(self) -> str:
        return group_changelog(self._settings.topic_prefix)

    @property
    def _where(self) -> str:
        return ", ".join(f"{host}:{port}" for host, port in self._settings.redis_servers)


async def has_members(settings: Settings) -> bool:
    """Whether Kafka knows of workers in the group: running ones, and those that died within the session timeout.

    Raises:
        aiokafka.errors.KafkaError: the broker cannot be asked, or refuses.
    """
    admin = AIOKafkaAdminClient(**settings.kafka_client(), request_timeout_ms=int(_PROBE_SECONDS * 1000))
    try:
        await admin.start()
        (answer,) = await admin.describe_consumer_groups([settings.topic_prefix])
    finally:
        await admin.close()
    for code, _group, _state, _type, _protocol, members, *_ in answer.groups:
        if code:
            raise for_code(code)(settings.topic_prefix)
        return bool(members)
    raise KafkaError(f"the broker says nothing of the group {settings.topic_prefix}")


def check_settings(recorded: Mapping[str, int], shaping: Mapping[str, int]) -> None:
    """Raises SettingsConflict where the tables were made with others of the settings that shape results."""
    for name, value in recorded.items():
        if shaping.get(name) != value:
            raise SettingsConflict(
                f"ATTENDANCE_{name.upper()}: the tables were made with {_readable(name, value)}, this worker has "
                f"{_readable(name, shaping.get(name, 0))}; set what they were made with, or set another "
                "ATTENDANCE_TOPIC_PREFIX and publish again"
            )


def _readable(name: str, value: int) -> str:
    return str(value) if name == "partitions" else f"{value / 1e6:g}s"


def _decode(value: bytes | None) -> GroupRecord | None:
    try:
        document = orjson.loads(value or b"")
        return GroupRecord(str(document["redisId"]), str(document["replaces"]), dict(document["settings"]))
    except (ValueError, TypeError, KeyError):
        return None
