"""What a wrong round leaves behind: topics, commits and logs in a folder, so that a missing record can be traced."""

import asyncio
import base64
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.support.system import System

_OFFSETS = "__consumer_offsets"


def keep(system: System, folder: Path) -> None:
    """Writes `TOPIC.jsonl` per topic (key, value and headers in base 64), `commits.jsonl` and every worker's log."""
    folder.mkdir(parents=True, exist_ok=True)
    for topic in system.topics:
        records = system.consume(topic)
        _write(folder / f"{topic.removeprefix(system.settings.topic_prefix)[1:]}.jsonl", map(_record, records))
    _write(folder / "commits.jsonl", commits(system))
    for number, worker in enumerate(system.workers):
        (folder / f"worker-{number}.log").write_bytes(worker.log.read_bytes())


def commits(system: System) -> list[dict[str, Any]]:
    """Every commit of the group, in the order in which the broker took them."""
    return asyncio.run(_commits(system))


async def _commits(system: System) -> list[dict[str, Any]]:
    consumer = AIOKafkaConsumer(**system.settings.kafka_client(), auto_offset_reset="earliest", exclude_internal_topics=False)
    await consumer.start()
    try:
        # a topic that is not asked for by name has no partitions that the client knows
        await consumer._client.set_topics([_OFFSETS])
        tps = [TopicPartition(_OFFSETS, p) for p in consumer.partitions_for_topic(_OFFSETS) or ()]
        consumer.assign(tps)
        ends = await consumer.end_offsets(tps)
        await consumer.seek_to_beginning(*tps)
        found: list[dict[str, Any]] = []
        while any([await consumer.position(tp) < ends[tp] for tp in tps]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                found += (said for record in records for said in _commit(record, system.settings.topic_prefix))
        return found
    finally:
        await consumer.stop()


def _commit(record: Any, group: str) -> Iterator[dict[str, Any]]:
    """A commit of the group, if the record is one: Kafka's OffsetCommitKey 0 or 1, OffsetCommitValue 1 and later."""
    if record.key is None or record.value is None or struct.unpack_from(">h", record.key)[0] > 1:
        return
    names, at = [], 2
    for _ in range(2):
        (size,) = struct.unpack_from(">h", record.key, at)
        names.append(record.key[at + 2 : at + 2 + size].decode())
        at += 2 + size
    if names[0] == group:
        (partition,) = struct.unpack_from(">i", record.key, at)
        (offset,) = struct.unpack_from(">q", record.value, 2)
        yield {"time": record.timestamp, "topic": names[1], "partition": partition, "offset": offset}


def _record(record: Any) -> dict[str, Any]:
    return {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
        "key": _text(record.key),
        "value": _text(record.value),
        "headers": [[name, _text(content)] for name, content in record.headers],
    }


def _text(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


def _write(path: Path, lines: Any) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
