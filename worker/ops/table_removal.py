"""Removes tables that no worker keeps any more."""

import asyncio
from collections.abc import Sequence

from aiokafka.errors import KafkaError, NoError, UnknownTopicOrPartitionError, for_code

from worker.kafka import open_admin
from worker.read_model.builds import BuildError
from worker.settings import Settings
from worker.stream.group import count_members
from worker.topics import TopicNames, group_changelog

#: Workers whose tables were dropped leave their group in this time, seconds.
_LEAVE_SECONDS = 40


async def remove_tables(settings: Settings) -> None:
    """Deletes the changelogs of numbered tables.

    Raises:
        BuildError: workers still keep them.
        KafkaError: the broker refuses; the message names the topic.
    """
    for _ in range(_LEAVE_SECONDS):
        if not await count_members(settings):
            break
        await asyncio.sleep(1)
    else:
        raise BuildError(f"the group {settings.group} still has members: stop its workers, then repeat this with --resume")
    names = TopicNames.of(settings.topic_prefix, settings.tables)
    group = group_changelog(settings.topic_prefix, settings.tables)
    await delete_topics(settings, [names.attendance_changelog, names.bookings_changelog, group])


async def delete_topics(settings: Settings, names: Sequence[str]) -> None:
    """Deletes topics; one that does not exist is no error.

    Raises:
        KafkaError: the broker refuses; the message names the topic.
    """
    async with open_admin(settings) as admin:
        answer = await admin.delete_topics(list(names))
    for name, code, *_ in answer.topic_error_codes:
        error = for_code(code)
        if error not in (NoError, UnknownTopicOrPartitionError):
            raise KafkaError(f"{name} cannot be deleted: {error.description}; allow it, or delete it with kafka-topics")
