"""How many partitions topics have, from Kafka."""

from aiokafka.client import AIOKafkaClient

from worker.kafka import require_answer
from worker.ops.refusals import RIGHTS
from worker.ops.topics import TopicsError
from worker.settings import Settings
from worker.tasks import uncancelled


async def partition_counts(settings: Settings, *topics: str) -> list[int]:
    """The numbers of partitions of these topics, from Kafka: an operator need not have the settings of the workers.

    Raises:
        TopicsError: one does not exist.
        aiokafka.errors.KafkaError: the broker does not answer, or refuses.
    """
    await require_answer(settings)
    client = AIOKafkaClient(**settings.kafka_client())
    try:
        await uncancelled(client.bootstrap())
        return await partition_counts_of(client, *topics)
    finally:
        await client.close()


async def partition_counts_of(client: AIOKafkaClient, *topics: str) -> list[int]:
    """As `partition_counts`, asked by a client that is connected, as that of a producer."""
    # metadata of all topics: a broker might create a single one that is missing, or the client wait 40 s until it exists
    metadata = await client.fetch_all_metadata()
    counts = {topic: len(metadata.partitions_for_topic(topic) or ()) for topic in topics}
    for topic, count in counts.items():
        if not count:
            raise TopicsError(
                f"ATTENDANCE_TOPIC_PREFIX: Kafka has no topic {topic}, or does not show it to this user: run "
                f"`attendance topics create`, set another prefix, or {RIGHTS}"
            )
    return [counts[topic] for topic in topics]
