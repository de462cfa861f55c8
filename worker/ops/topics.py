"""Creates the topics as the contract describes them (section 2), and says where they are otherwise."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import NodeNotReadyError, NoError, TopicAlreadyExistsError, UnknownTopicOrPartitionError, for_code

from worker.engine.fetching import missing_codecs
from worker.settings import Settings
from worker.topics import MAX_DEAD_LETTER_BYTES, MAX_MESSAGE_BYTES, TopicNames

T = TypeVar("T")

_ASK_SECONDS = 8.0
_AGAIN_SECONDS = 0.1
_DAY_MS = 86_400_000
_HOUR_MS = 3_600_000
_DEFAULT_REPLICATION = 3


class TopicsError(Exception):
    """The topics cannot be used as they are; the message says which and what to do."""


class TopicPlan(NamedTuple):
    """A topic as it must be. A retention of -1 keeps for ever."""

    name: str
    partitions: int
    settings: Mapping[str, str]

    def problems(self, partitions: int, found: Mapping[str, str]) -> list[str]:
        """What is wrong with a topic of so many partitions and these settings."""
        said = []
        if partitions != self.partitions:
            said.append(
                f"{self.name} has {partitions} partitions and ATTENDANCE_PARTITIONS is {self.partitions}: "
                "set ATTENDANCE_PARTITIONS to what the topic has, or set another ATTENDANCE_TOPIC_PREFIX and publish again"
            )
        for setting, wanted in self.settings.items():
            if not _holds(setting, wanted, found.get(setting)):
                said.append(f"{self.name} has {setting}={found.get(setting)}: set it to {wanted}")
        return said


def plans(settings: Settings) -> list[TopicPlan]:
    """Every topic of the tenant."""
    names, count = TopicNames.of(settings.topic_prefix), settings.partitions
    size = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    compact = {"cleanup.policy": "compact", **size}
    kept = {"cleanup.policy": "delete", "retention.ms": str(30 * _DAY_MS)}
    # a record that a stalled worker appends late must not compact the newer one away before the owner mends it
    changelog = {**compact, "min.compaction.lag.ms": str(_HOUR_MS)}
    return [
        TopicPlan(names.events, count, {**kept, **size, "message.timestamp.type": "LogAppendTime"}),
        TopicPlan(names.bookings, count, compact),
        TopicPlan(names.alerts, count, compact),
        TopicPlan(names.dead_letters, count, {**kept, "max.message.bytes": str(MAX_DEAD_LETTER_BYTES)}),
        TopicPlan(names.attendance_changelog, count, changelog),
        TopicPlan(names.bookings_changelog, count, changelog),
    ]


async def create(settings: Settings) -> list[str]:
    """Creates the topics that are missing; their names. Topics that exist are left as they are.

    Raises:
        TopicsError: the broker refuses one.
        aiokafka.errors.KafkaError: the broker cannot be reached.
    """
    async with _admin(settings) as admin:
        brokers = len((await _ask(admin.describe_cluster))["brokers"])
        copies = settings.replication or min(_DEFAULT_REPLICATION, brokers)
        wanted = [NewTopic(plan.name, plan.partitions, copies, topic_configs=dict(plan.settings)) for plan in plans(settings)]
        answer = await admin.create_topics(wanted)
    created = []
    for name, code, *rest in answer.topic_errors:
        error = for_code(code)
        if code == 0:
            created.append(name)
        elif error is not TopicAlreadyExistsError:
            raise TopicsError(f"{name}: the broker refuses it ({rest[0] if rest and rest[0] else error.__name__})")
    return created


async def check(settings: Settings) -> list[str]:
    """What is wrong with the topics, or keeps them from being read here, a line each with the cure; empty where nothing is.

    Raises:
        aiokafka.errors.KafkaError: the broker cannot be reached.
    """
    async with _admin(settings) as admin:
        wanted = plans(settings)
        described = {
            topic["topic"]: len(topic["partitions"])
            for topic in await _ask(lambda: admin.describe_topics([plan.name for plan in wanted]))
            if _is_there(topic)
        }
        problems, present = [], []
        for plan in wanted:
            if described.get(plan.name):
                present.append(plan)
            else:
                problems.append(f"{plan.name} is missing: run `attendance topics create`")
        found = await _configs(admin, [plan.name for plan in present])
        for plan in present:
            problems += plan.problems(described[plan.name], found.get(plan.name, {}))
    return [*unreadable_codecs(), *problems]


def unreadable_codecs() -> list[str]:
    """A line with the cure where record batches of some codec cannot be decoded on this machine."""
    missing = missing_codecs()
    if not missing:
        return []
    return [f"batches compressed with {', '.join(missing)} cannot be read here: install cramjam (`pip install cramjam`)"]


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found: dict[str, dict[str, str]] = {}
    for answer in await _ask(lambda: admin.describe_configs(resources)) if resources else ():
        for code, message, _kind, name, entries in answer.resources:
            _raise(code, message or name)
            found[name] = {entry[0]: entry[1] for entry in entries}
    return found


async def _ask(question: Callable[[], Awaitable[T]]) -> T:
    """What any broker answers: the client asks one at random, which may be one of three that is away."""
    end = monotonic() + _ASK_SECONDS
    while True:
        try:
            return await question()
        except NodeNotReadyError:
            if monotonic() > end:
                raise
        await asyncio.sleep(_AGAIN_SECONDS)


def _is_there(topic: Mapping[str, Any]) -> bool:
    if topic["error_code"] == UnknownTopicOrPartitionError.errno:
        return False
    _raise(topic["error_code"], topic["topic"])
    return True


def _raise(code: int, about: str) -> None:
    """Raises the Kafka error of a code, where it is one."""
    error = for_code(code)
    if error is not NoError:
        raise error(about)


def _holds(setting: str, wanted: str, found: str | None) -> bool:
    if found is None:
        return False
    if setting == "retention.ms":
        return int(found) < 0 or int(found) >= int(wanted)
    if setting in ("max.message.bytes", "min.compaction.lag.ms"):
        return int(found) >= int(wanted)
    return found == wanted


@asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    client: Any = AIOKafkaAdminClient(**settings.kafka_client(), request_timeout_ms=10_000)
    try:
        await client.start()
        yield client
    finally:
        await client.close()
