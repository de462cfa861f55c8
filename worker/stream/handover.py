"""What a build with tables of its own has to send to Kafka when it becomes live.

Until then its workers send no dead letters and no forwards: those of the live tables do, and go on while these are kept. What
the other group has not committed by then may never be sent by it, so the new owner of a partition sends it for these records:
those from that group's committed offsets to its own. What both send is sent twice, which is harmless.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiokafka import TopicPartition

from worker.domain.rows import BOOKINGS, EVENTS, Applied
from worker.engine.log_reader import read_windows
from worker.kafka import committed_offsets, open_admin
from worker.stream import kafka_sink
from worker.stream.decode_batch import Contents, decode_batch
from worker.stream.kafka_sink import Outgoing
from worker.stream.resources import Resources
from worker.topics import partition_of


async def unsent(resources: Resources, number: int, group: str, applied: Applied) -> AsyncGenerator[tuple[Contents, Outgoing]]:
    """The batches of a partition that another group had not committed, with the dead letters and forwards of each.

    Args:
        resources: of the worker.
        number: of the partition.
        group: the consumer group of the tables that were live.
        applied: how far this partition is folded.

    Raises:
        aiokafka.errors.KafkaError: the broker does not answer, or refuses.
    """
    settings, topics = resources.settings, resources.topics
    tps = [TopicPartition(topics.events, number), TopicPartition(topics.bookings, number)]
    async with open_admin(settings) as admin:
        committed = await committed_offsets(admin, group, tps)
    windows = {tp: range(committed.get(tp, end), end) for tp, end in zip(tps, applied.ends, strict=True)}

    def is_ours(booking_id: str) -> bool:
        return partition_of(booking_id, settings.partitions) == number

    async with aclosing(read_windows(settings.kafka_client(), {tp: each for tp, each in windows.items() if each})) as reading:
        async for tp, fetched in reading:
            topic = EVENTS if tp.topic == topics.events else BOOKINGS
            contents = (await decode_batch(topic, fetched.records, is_ours, resources.rules)).contents
            yield contents, kafka_sink.outgoing(contents, [], tp, topics, settings.partitions)
