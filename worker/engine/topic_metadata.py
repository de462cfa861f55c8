"""Asks Kafka for the topics that a consumer's client does not know, until it knows them.

aiokafka does not repeat a request for metadata that failed, or whose answer lacks a topic, for five minutes. If that was the
first request, and if the client leads its group, nothing is assigned to anybody for so long.
"""

import asyncio
from typing import Any

import structlog

log = structlog.get_logger(__name__)

#: Kafka is asked again after so long, seconds.
RETRY_SECONDS = 0.5


def unknown_topics(client: Any) -> list[str]:
    """The topics of a Kafka client of which it knows no partition, sorted."""
    return sorted(topic for topic in client._topics if not client.cluster.partitions_for_topic(topic))  # noqa: SLF001


async def refresh_until_known(client: Any) -> None:
    """Returns once the client knows all its topics."""
    while unknown_topics(client):
        await client.force_metadata_update()
        if unknown_topics(client):
            await asyncio.sleep(RETRY_SECONDS)


async def watch_topics(client: Any) -> None:
    """Keeps all topics of the client known, for ever. The leader of a group rebalances when it gets to know one."""
    while True:
        await asyncio.sleep(RETRY_SECONDS)
        if unknown := unknown_topics(client):
            log.warning("waiting", what="kafka", error=f"no metadata of {', '.join(unknown)}")
            await refresh_until_known(client)
            log.info("resumed", what="kafka")


def assign_known_topics_only(consumer: Any, seconds: float) -> None:
    """Lets a leader of the group wait for metadata of its topics before it assigns partitions, at most so many seconds.

    After that it assigns partitions of those topics that it knows.

    Args:
        consumer: a consumer of aiokafka that has been started.
        seconds: less than the session timeout: while it waits, no heartbeat is sent.
    """
    coordinator, client = consumer._coordinator, consumer._client  # noqa: SLF001
    assign = coordinator._perform_assignment  # noqa: SLF001

    async def perform_assignment(response: Any) -> Any:
        try:
            async with asyncio.timeout(seconds):
                await refresh_until_known(client)
        except TimeoutError:
            log.warning("assigning without metadata of some topics", topics=unknown_topics(client))
        return await assign(response)

    coordinator._perform_assignment = perform_assignment  # noqa: SLF001
