"""Creates the topics as the README lists them, sets what is otherwise, and says what cannot be set."""

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
from worker.topics import MAX_DEAD_LETTER_BYTES, MAX_MESSAGE_BYTES, TopicNames, group_changelog

T = TypeVar("T")

_ASK_SECONDS = 8.0
_AGAIN_SECONDS = 0.1
_DAY_MS = 86_400_000
_HOUR_MS = 3_600_000
_DEFAULT_REPLICATION = 3
#: The source of a setting in a broker's answer.
_SET_FOR_TOPIC = 1


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
        if self.partitions == 1 < partitions:
            said.append(
                f"{self.name} has {partitions} partitions and must have one: delete it and run `attendance topics create`"
            )
        elif partitions != self.partitions:
            said.append(
                f"{self.name} has {partitions} partitions and ATTENDANCE_PARTITIONS is {self.partitions}: "
                "set ATTENDANCE_PARTITIONS to what the topic has, or set another ATTENDANCE_TOPIC_PREFIX and publish again"
            )
        for setting, wanted in self.wrong(found).items():
            said.append(f"{self.name} has {setting}={found.get(setting)}: `attendance topics create` sets it to {wanted}")
        return said

    def wrong(self, found: Mapping[str, str]) -> dict[str, str]:
        """The settings that are not as they must be, with what they must be."""
        return {setting: wanted for setting, wanted in self.settings.items() if not _holds(setting, wanted, found.get(setting))}


class Provisioned(NamedTuple):
    """What `create` did."""

    created: list[str]
    """Names of topics."""
    altered: list[str]
    """Settings of topics that were there, a sentence each."""


def plans(settings: Settings) -> list[TopicPlan]:
    """Every topic of the tenant."""
    names, count = TopicNames.of(settings.topic_prefix), settings.partitions
    size = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    compact = {"cleanup.policy": "compact", **size}
    kept = {"cleanup.policy": "delete", "retention.ms": str(30 * _DAY_MS)}
    # when a record was received decides, and no producer's clock may say so
    received = {"message.timestamp.type": "LogAppendTime"}
    # a record that a stalled worker appends late must not compact the newer one away before the owner mends it
    changelog = {**compact, "min.compaction.lag.ms": str(_HOUR_MS)}
    return [
        TopicPlan(names.events, count, {**kept, **size, **received}),
        TopicPlan(names.bookings, count, {**compact, **received}),
        TopicPlan(names.alerts, count, compact),
        TopicPlan(names.dead_letters, count, {**kept, "max.message.bytes": str(MAX_DEAD_LETTER_BYTES)}),
        TopicPlan(names.attendance_changelog, count, changelog),
        TopicPlan(names.bookings_changelog, count, changelog),
        TopicPlan(group_changelog(settings.topic_prefix), 1, compact),
    ]


async def create(settings: Settings) -> Provisioned:
    """Creates the topics that are missing, and sets the settings of the others that are not as they must be.

    Raises:
        TopicsError: the broker refuses one.
        aiokafka.errors.KafkaError: the broker cannot be reached.
    """
    wanted = {plan.name: plan for plan in plans(settings)}
    async with _admin(settings) as admin:
        brokers = len((await _ask(admin.describe_cluster))["brokers"])
        copies = settings.replication or min(_DEFAULT_REPLICATION, brokers)
        answer = await admin.create_topics(
            [NewTopic(plan.name, plan.partitions, copies, topic_configs=dict(plan.settings)) for plan in wanted.values()]
        )
        created, present = [], []
        for name, code, *rest in answer.topic_errors:
            error = for_code(code)
            if code == 0:
                created.append(name)
            elif error is TopicAlreadyExistsError:
                present.append(name)
            else:
                raise TopicsError(f"{name}: the broker refuses it ({rest[0] if rest and rest[0] else error.__name__})")
        return Provisioned(created, await _alter(admin, [wanted[name] for name in present]))


async def _alter(admin: AIOKafkaAdminClient, present: list[TopicPlan]) -> list[str]:
    """Sets what is wrong in topics that exist; what it set, a sentence each."""
    found = await _configs(admin, [plan.name for plan in present])
    altered = []
    for plan in present:
        values = found.get(plan.name, _TopicConfig({}, {}))
        if not (wrong := plan.wrong(values.effective)):
            continue
        # this request replaces all of a topic's own settings, so those that are to stay are sent along
        resource = ConfigResource(ConfigResourceType.TOPIC, plan.name, configs={**values.own, **wrong})
        for answer in await admin.alter_configs([resource]):
            for code, message, *_ in answer.resources:
                if code:
                    raise TopicsError(f"{plan.name}: the broker refuses to set {wrong} ({message or for_code(code).__name__})")
        altered += [f"{plan.name} had {name}={values.effective.get(name)}: now {value}" for name, value in wrong.items()]
    return altered


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
            problems += plan.problems(described[plan.name], found.get(plan.name, _TopicConfig({}, {})).effective)
    return [*unreadable_codecs(), *problems]


def unreadable_codecs() -> list[str]:
    """A line with the cure where record batches of some codec cannot be decoded on this machine."""
    missing = missing_codecs()
    if not missing:
        return []
    return [f"batches compressed with {', '.join(missing)} cannot be read here: install cramjam (`pip install cramjam`)"]


class _TopicConfig(NamedTuple):
    effective: dict[str, str]
    own: dict[str, str]
    """Those set for the topic itself, not for the broker or by default."""


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, _TopicConfig]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    found: dict[str, _TopicConfig] = {}
    for answer in await _ask(lambda: admin.describe_configs(resources)) if resources else ():
        for code, message, _kind, name, entries in answer.resources:
            _raise(code, message or name)
            own = {entry[0]: entry[1] for entry in entries if entry[3] == _SET_FOR_TOPIC}
            found[name] = _TopicConfig({entry[0]: entry[1] for entry in entries}, own)
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
