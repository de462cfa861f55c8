"""What all workers of a group must agree on: the Redis that they write to, and the settings that shape results.

Both are recorded in a topic of one partition. A worker reads it to its end before it joins the group, so that a worker with
another Redis or other settings never causes a rebalance. Each record names the id that it replaces, and of several records
that replace the same id the first in the log wins: workers that start at the same time agree without a lock.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import timedelta
from functools import partial
from time import monotonic
from typing import NamedTuple
from uuid import uuid4

import orjson
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, for_code

from worker.durations import written
from worker.read_model.builds import read_registry
from worker.read_model.identity import NO_ID, RedisId, heartbeats, read_id, replace_id
from worker.read_model.keys import namespace
from worker.redis.client import Client
from worker.settings import Settings
from worker.stream.errors import SettingsConflict
from worker.stream.group_topic import read_group_topic
from worker.stream.retry import until_done
from worker.tasks import uncancelled
from worker.topics import group_changelog

log = structlog.get_logger(__name__)

_ASK_AGAIN_SECONDS = 0.5
#: Running workers write the id back within this time after Redis was flushed, seconds.
_WRITTEN_BACK_SECONDS = 3.0
#: A heartbeat that has not changed for so long comes from no running worker, seconds.
_SILENT_SECONDS = 5.0
_PROBE_SECONDS = 10.0


class GroupRecord(NamedTuple):
    """A record of the group's topic."""

    redis_id: str
    replaces: str
    """The id that was recorded before; empty if there was none."""
    settings: Mapping[str, int]
    """See `Settings.shaping`."""

    def encode(self) -> bytes:
        return orjson.dumps({"redisId": self.redis_id, "replaces": self.replaces, "settings": dict(self.settings)})


def latest(values: Iterable[bytes | None]) -> GroupRecord | None:
    """The valid record, from all values of the topic in the order of the log. Values that are no `GroupRecord` are ignored."""
    valid: GroupRecord | None = None
    for value in values:
        record = _decode(value)
        if record is not None and (valid is None or record.replaces == valid.redis_id):
            valid = record
    return valid


class Group:
    """One worker's view of its group."""

    def __init__(self, settings: Settings, producer: AIOKafkaProducer, redis: Client) -> None:
        self._settings = settings
        self._producer = producer
        self._redis = redis
        self._id = ""

    async def agree(self) -> None:
        """Called before the worker joins: makes sure that its Redis and settings are the group's. An empty group adopts them.

        Raises:
            SettingsConflict: the group has others.
        """
        while True:
            record, current = await self._read()
            if record is not None and current.id == record.redis_id:
                return await self._confirm(current)
            if current != NO_ID and current.replaces is None:
                if record is not None:
                    raise self._conflict(current)
                await self._refuse_where_others_write()
            elif record is not None and await self._has_members():
                # running workers write the id back, and Kafka forgets dead ones after the session timeout
                await self._wait_for_members(current)
                continue
            claim = await self._claim(current, record.redis_id if record is not None else "")
            if claim is not None:
                record, _ = await self._append(claim)
                if record is None or record.redis_id != claim.id:
                    raise self._conflict(claim)
                return await self._confirm(claim)

    async def check(self) -> None:
        """Called while the worker is a member: makes sure that its Redis is still the recorded one.

        Raises:
            SettingsConflict: it is not.
        """
        record, current = await self._read()
        if record is not None and current.id != record.redis_id:
            if current.replaces == record.redis_id:
                # a starting worker found this Redis flushed and claimed it, but did not record its claim (yet)
                record, _ = await self._append(current)
            elif record.redis_id == self._id and (current == NO_ID or current.replaces is not None):
                current = await self._replace(current, RedisId(self._id))
        if record is None or current.id != record.redis_id:
            raise self._conflict(current)
        await self._confirm(current)

    async def heartbeat(self) -> None:
        """Called each second: writes the id back if Redis was flushed.

        Raises:
            SettingsConflict: somebody has given this Redis another id.
        """
        current = await replace_id(self._redis, self._settings.redis_namespace, NO_ID, RedisId(self._id))
        if current.id != self._id:
            async with asyncio.timeout(_PROBE_SECONDS):
                await self.check()

    async def _read(self) -> tuple[GroupRecord | None, RedisId]:
        """The record, and the id that this Redis had when it was read: a worker that starts meanwhile changes both."""
        current = await self._read_id()
        while True:
            before, record, current = current, await until_done("kafka", self._read_record), await self._read_id()
            if current == before:
                return record, current

    async def _read_id(self) -> RedisId:
        return await until_done("redis", lambda: read_id(self._redis, self._settings.redis_namespace))

    async def _read_record(self) -> GroupRecord | None:
        record = await recorded(self._settings)
        if record is not None:
            check_settings(record.settings, self._settings.shaping())
        return record

    async def _claim(self, current: RedisId, recorded: str) -> RedisId | None:
        """Claims, if no worker has yet, that this Redis becomes the recorded one; None if it got another id meanwhile."""
        if current.replaces == recorded:
            return current
        claim = await self._replace(current, RedisId(uuid4().hex, recorded))
        return claim if claim.replaces == recorded else None

    async def _append(self, claim: RedisId) -> tuple[GroupRecord | None, RedisId]:
        """Appends a claim to the group's topic, then reads record and id again."""
        topic = group_changelog(self._settings.topic_prefix, self._settings.tables)
        record = GroupRecord(claim.id, claim.replaces or "", self._settings.shaping())

        async def send() -> None:
            # each under its own key: compaction must keep the first of two records that replace the same id
            await self._producer.send_and_wait(topic, key=claim.id.encode(), value=record.encode(), partition=0)

        await until_done("kafka", send)
        return await self._read()

    async def _confirm(self, current: RedisId) -> None:
        """Completes a claim: the id of this Redis is the recorded one."""
        self._id = current.id
        if current.replaces is not None:
            await self._replace(current, RedisId(current.id))

    async def _replace(self, expected: RedisId, new: RedisId) -> RedisId:
        return await until_done("redis", lambda: replace_id(self._redis, self._settings.redis_namespace, expected, new))

    async def _wait_for_members(self, before: RedisId) -> None:
        """Waits until this Redis has another id, or the group has no members."""
        log.warning("waiting", what="group", reason="this Redis has no data of the group, which still has members in Kafka")
        end = monotonic() + self._settings.session_timeout.total_seconds() + _WRITTEN_BACK_SECONDS
        while await self._has_members():
            # any other id: a worker that started at the same time may have seen no members, and claimed this Redis
            if await self._read_id() != before:
                break
            if monotonic() > end:
                raise SettingsConflict(
                    f"ATTENDANCE_REDIS: the Redis at {self._settings.redis_address} has no data of this group, whose workers "
                    "write to another Redis: set ATTENDANCE_REDIS to that one"
                )
            await asyncio.sleep(_ASK_AGAIN_SECONDS)
        log.info("resumed", what="group")

    async def _refuse_where_others_write(self) -> None:
        """For an id that is not recorded: it belongs to another group, or to topics that were deleted."""
        if await self._has_members():
            return  # the members are of a version that recorded nothing
        base, count = self._settings.redis_namespace, self._settings.partitions
        live = (await until_done("redis", lambda: read_registry(self._redis, base))).live
        read_heartbeats = partial(heartbeats, self._redis, namespace(base) if live is None else live.name, count)
        before = await until_done("redis", read_heartbeats)
        await asyncio.sleep(_SILENT_SECONDS)
        if await until_done("redis", read_heartbeats) != before:
            raise SettingsConflict(
                f"ATTENDANCE_NAMESPACE: workers of another group write under {base} to the Redis at "
                f"{self._settings.redis_address}: set another namespace, or their ATTENDANCE_BROKER and ATTENDANCE_TOPIC_PREFIX"
            )

    async def _has_members(self) -> bool:
        return await until_done("kafka", lambda: count_members(self._settings)) > 0

    def _conflict(self, current: RedisId) -> SettingsConflict:
        return SettingsConflict(
            f"ATTENDANCE_REDIS: the Redis at {self._settings.redis_address} is not the one that this group writes to (its id "
            f"{current.id[:8]} is not the recorded one): set ATTENDANCE_REDIS to that of the group's workers; if this one "
            f"is to replace it, stop them all and run `redis-cli HDEL {self._settings.redis_namespace}:live redisId` here"
        )


async def count_members(settings: Settings) -> int:
    """How many members the group has in Kafka: running workers, and those that died within the session timeout.

    Raises:
        aiokafka.errors.KafkaError: the broker cannot be asked, or refuses.
    """
    admin = AIOKafkaAdminClient(**settings.kafka_client(), request_timeout_ms=int(_PROBE_SECONDS * 1000))
    try:
        await uncancelled(admin.start())
        (answer,) = await admin.describe_consumer_groups([settings.group])
    finally:
        await admin.close()
    for code, _group, _state, _type, _protocol, members, *_ in answer.groups:
        if code:
            raise for_code(code)(settings.group)
        return len(members)
    raise KafkaError(f"the broker's answer does not include the group {settings.group}")


async def recorded(settings: Settings) -> GroupRecord | None:
    """The valid record of the group of some tables; None: there is none.

    Raises:
        aiokafka.errors.KafkaError: the broker cannot be asked.
    """
    return latest(each.value for each in await read_group_topic(settings, settings.tables))


def check_settings(recorded: Mapping[str, int], shaping: Mapping[str, int]) -> None:
    """Raises SettingsConflict if the tables were made with other values of the settings that shape results."""
    for name, value in recorded.items():
        if shaping.get(name) != value:
            of_tables, here = _readable(name, value), _readable(name, shaping.get(name, 0))
            elsewhere = "set another ATTENDANCE_TOPIC_PREFIX and publish again"
            refold = "run `attendance rebuild --refold` with this setting"
            new_topics = "; `attendance rebuild --refold --from-prefix` has new topics filled while these are used"
            cure = elsewhere + new_topics if name == "partitions" else f"{refold}, or {elsewhere}"
            raise SettingsConflict(
                f"ATTENDANCE_{name.upper()}: the tables were created with {of_tables}, here it is {here}: "
                f"set {of_tables}, or {cure}"
            )


def _readable(name: str, value: int) -> str:
    return str(value) if name == "partitions" else written(timedelta(microseconds=value))


def _decode(value: bytes | None) -> GroupRecord | None:
    try:
        document = orjson.loads(value or b"")
        return GroupRecord(str(document["redisId"]), str(document["replaces"]), dict(document["settings"]))
    except (ValueError, TypeError, KeyError):
        return None
