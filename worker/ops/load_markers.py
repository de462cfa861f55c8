"""The markers of erased bookings, which new tables take over: topics and archives may lack the erasures."""

from contextlib import aclosing

from worker.domain.erasures import ERASED_PREFIX, merge_markers
from worker.domain.rows import PARTITION_GROUP
from worker.engine.log_reader import find_windows, read_windows
from worker.engine.stores.base import SEPARATOR
from worker.ops.load_sources import FETCH_BYTES
from worker.settings import Settings
from worker.topics import TopicNames

_START = PARTITION_GROUP + SEPARATOR + ERASED_PREFIX


async def find_markers(source: Settings, number: int) -> dict[bytes, bytes | None]:
    """The markers of a partition in the changelog of the live tables, by suffix.

    Args:
        source: settings of the live tables.
        number: of the partition.

    Raises:
        aiokafka.errors.KafkaError: the broker refuses.
    """
    client, found = source.kafka_client(), dict[bytes, bytes]()
    topic = TopicNames.of(source.topic_prefix, source.tables).attendance_changelog
    windows = await find_windows(client, topic, [number])
    # most record batches have none, and are not decoded
    reading = read_windows(client, windows, fetch_bytes=FETCH_BYTES, may_hold=lambda content: _START in content)
    async with aclosing(reading) as parts:
        async for _, fetched in parts:
            for record in fetched.records:
                if record.value is not None and record.key.startswith(_START):
                    suffix = record.key[len(PARTITION_GROUP + SEPARATOR) :]
                    held = found.get(suffix)
                    found[suffix] = record.value if held is None else merge_markers(held, record.value)
    return dict(found)
