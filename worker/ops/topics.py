"""Creates the topics that `deploy/README.md` lists, corrects their settings, and reports what cannot be corrected."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    NodeNotReadyError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)

from worker.engine.fetching import missing_codecs
from worker.kafka import open_admin
from worker.ops.refusals import RIGHTS
from worker.settings import Settings
from worker.topics import FIRST_TABLES, MAX_DEAD_LETTER_BYTES, MAX_MESSAGE_BYTES, TopicNames, group_changelog

T = TypeVar("T")

_RETRY_SECONDS = 8.0
_PAUSE_SECONDS = 0.1
_DAY_MS = 86_400_000
_HOUR_MS = 3_600_000
_DEFAULT_REPLICATION = 3
#: The source of a topic's setting in a DescribeConfigs response: DYNAMIC_TOPIC_CONFIG.
_SET_FOR_TOPIC = 1


class TopicsError(Exception):
    """A topic cannot be used; the message names it and says what to do."""


class TopicPlan(NamedTuple):
    """A topic as it must be. A retention of -1 is unlimited."""

    name: str
    partitions: int
    settings: Mapping[str, str]
    initial: Mapping[str, str] = MappingProxyType({})
    """Further settings of a topic that is created; one that exists may have others."""

    def problems(self, partitions: int, actual: Mapping[str, str]) -> list[str]:
        """What is wrong with an existing topic of this number of partitions and these settings."""
        problems = []
        if self.partitions == 1 < partitions:
            problems.append(
                f"{self.name} has {partitions} partitions and must have one: delete it and run `attendance topics create`"
            )
        elif partitions != self.partitions:
            problems.append(
                f"{self.name} has {partitions} partitions and ATTENDANCE_PARTITIONS is {self.partitions}: "
                "set ATTENDANCE_PARTITIONS to the topic's number, or set another ATTENDANCE_TOPIC_PREFIX and publish again"
            )
        for setting, required in self.wrong_settings(actual).items():
            problems.append(
                f"{self.name} has {setting}={actual.get(setting)}: `attendance topics create` sets it to {required}"
            )
        return problems

    def wrong_settings(self, actual: Mapping[str, str]) -> dict[str, str]:
        """The settings that are wrong, with their required values."""
        return {name: required for name, required in self.settings.items() if not _suffices(name, required, actual.get(name))}


class Provisioned(NamedTuple):
    """The changes that `create` made."""

    created: list[str]
    """Names of topics."""
    altered: list[str]
    """Changed settings of existing topics, a sentence each."""


def plans(settings: Settings) -> list[TopicPlan]:
    """All topics of the tenant."""
    names, count = TopicNames.of(settings.topic_prefix, settings.tables), settings.partitions
    tables = (FIRST_TABLES, settings.tables or FIRST_TABLES)
    size = {"max.message.bytes": str(MAX_MESSAGE_BYTES)}
    compact = {"cleanup.policy": "compact", **size}
    delete = {"cleanup.policy": "delete", "retention.ms": str(30 * _DAY_MS)}
    # the fold needs the time of reception, which must not be the clock of a producer
    log_append_time = {"message.timestamp.type": "LogAppendTime"}
    # a record that a stalled worker appends late must not compact the newer one away before the partition's owner rewrites it
    changelog = {**compact, "min.compaction.lag.ms": str(_HOUR_MS)}
    # what was deleted, as an erased booking, is gone after this time
    soon = {"max.compaction.lag.ms": str(7 * _DAY_MS)}
    return [
        TopicPlan(names.events, count, {**delete, **size, **log_append_time}),
        TopicPlan(names.bookings, count, {**compact, **log_append_time}, soon),
        TopicPlan(names.alerts, count, compact, soon),
        TopicPlan(names.dead_letters, count, {**delete, "max.message.bytes": str(MAX_DEAD_LETTER_BYTES)}),
        TopicPlan(names.attendance_changelog, count, changelog, soon),
        TopicPlan(names.bookings_changelog, count, changelog, soon),
        # what all tables of a system share is in that of the first ones
        *(TopicPlan(name, 1, compact) for name in sorted({group_changelog(settings.topic_prefix, each) for each in tables})),
    ]


async def create(settings: Settings) -> Provisioned:
    """Creates the missing topics, and corrects wrong settings of the others.

    Raises:
        TopicsError: the broker refuses to create or to alter one.
        aiokafka.errors.KafkaError: the broker cannot be reached.
    """
    planned = {plan.name: plan for plan in plans(settings)}
    async with open_admin(settings) as admin:
        brokers = len((await _retry(admin.describe_cluster))["brokers"])
        copies = settings.replication or min(_DEFAULT_REPLICATION, brokers)
        answer = await admin.create_topics(
            [
                NewTopic(plan.name, plan.partitions, copies, topic_configs={**plan.initial, **plan.settings})
                for plan in planned.values()
            ]
        )
        created, present = [], []
        for name, code, *rest in answer.topic_errors:
            error = for_code(code)
            if code == 0:
                created.append(name)
            elif error is TopicAlreadyExistsError:
                present.append(name)
            else:
                raise _refused(name, "to create it", code, rest[0] if rest else None)
        return Provisioned(created, await _alter(admin, [planned[name] for name in present]))


async def _alter(admin: AIOKafkaAdminClient, present: list[TopicPlan]) -> list[str]:
    """Corrects wrong settings of existing topics; returns a sentence for each change."""
    configs = await _configs(admin, [plan.name for plan in present])
    altered = []
    for plan in present:
        values = configs.get(plan.name, _TopicConfig({}, {}))
        if not (wrong := plan.wrong_settings(values.effective)):
            continue
        # the request replaces all settings of the topic itself, so it must hold the unchanged ones too
        resource = ConfigResource(ConfigResourceType.TOPIC, plan.name, configs={**values.own, **wrong})
        for answer in await admin.alter_configs([resource]):
            for code, message, *_ in answer.resources:
                if code:
                    raise _refused(plan.name, f"to set {wrong}", code, message)
        altered += [f"{plan.name} had {name}={values.effective.get(name)}: now {value}" for name, value in wrong.items()]
    return altered


def _refused(topic: str, what: str, code: int, message: str | None) -> TopicsError:
    error = for_code(code)
    lacks_right = error in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError)
    return TopicsError(
        f"{topic}: the broker refuses {what} ({message or error.__name__}){f': {RIGHTS}' if lacks_right else ''}"
    )


async def check(settings: Settings) -> list[str]:
    """What is wrong with the topics, or prevents reading them on this machine: a line each with the fix.

    Raises:
        aiokafka.errors.KafkaError: the broker cannot be reached.
    """
    async with open_admin(settings) as admin:
        planned = plans(settings)
        described = {
            topic["topic"]: len(topic["partitions"])
            for topic in await _retry(lambda: admin.describe_topics([plan.name for plan in planned]))
            if _exists(topic)
        }
        problems, present = [], []
        for plan in planned:
            if described.get(plan.name):
                present.append(plan)
            else:
                problems.append(f"{plan.name} is missing: run `attendance topics create`")
        configs = await _configs(admin, [plan.name for plan in present])
        for plan in present:
            problems += plan.problems(described[plan.name], configs.get(plan.name, _TopicConfig({}, {})).effective)
    return [*unreadable_codecs(), *problems]


async def exists(settings: Settings, name: str) -> bool:
    """Whether Kafka has a topic, and shows it to this user.

    Raises:
        aiokafka.errors.KafkaError: the broker cannot be reached.
    """
    async with open_admin(settings) as admin:
        return any(map(_exists, await _retry(lambda: admin.describe_topics([name]))))


def unreadable_codecs() -> list[str]:
    """A line with the fix if record batches of some codec cannot be decoded on this machine."""
    missing = missing_codecs()
    if not missing:
        return []
    return [f"batches compressed with {', '.join(missing)} cannot be decoded here: install cramjam (`pip install cramjam`)"]


class _TopicConfig(NamedTuple):
    effective: dict[str, str]
    own: dict[str, str]
    """The settings of the topic itself, without those of the broker and defaults."""


async def _configs(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, _TopicConfig]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    configs: dict[str, _TopicConfig] = {}
    for answer in await _retry(lambda: admin.describe_configs(resources)) if resources else ():
        for code, message, _kind, name, entries in answer.resources:
            _raise(code, message or name)
            own = {entry[0]: entry[1] for entry in entries if entry[3] == _SET_FOR_TOPIC}
            configs[name] = _TopicConfig({entry[0]: entry[1] for entry in entries}, own)
    return configs


async def _retry(request: Callable[[], Awaitable[T]]) -> T:
    """Sends a request until a broker answers: the client selects a broker at random, which may be an unavailable one."""
    deadline = monotonic() + _RETRY_SECONDS
    while True:
        try:
            return await request()
        except NodeNotReadyError:
            if monotonic() > deadline:
                raise
        await asyncio.sleep(_PAUSE_SECONDS)


def _exists(topic: Mapping[str, Any]) -> bool:
    if topic["error_code"] == UnknownTopicOrPartitionError.errno:
        return False
    _raise(topic["error_code"], topic["topic"])
    return True


def _raise(code: int, message: str) -> None:
    """Raises the Kafka error of a code, if it is an error."""
    error = for_code(code)
    if error is not NoError:
        raise error(message)


def _suffices(setting: str, required: str, actual: str | None) -> bool:
    """Whether a topic's setting is as required; some may also be larger."""
    if actual is None:
        return False
    if setting == "retention.ms":
        return int(actual) < 0 or int(actual) >= int(required)
    if setting in ("max.message.bytes", "min.compaction.lag.ms"):
        return int(actual) >= int(required)
    return actual == required
