"""Record batches that are hard to read: damaged where they lie in a broker's log, or appended as an odd producer does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c

from tests.support.services import KafkaCluster

#: Of a record batch (magic 2): 8 bytes of base offset, 4 of length, 4 of leader epoch, 1 of magic, 4 of CRC, 2 of attributes.
_LENGTH, _MAGIC, _CRC, _ATTRIBUTES, _RECORDS = 8, 16, 17, 21, 61


def bad_checksum(batch: bytearray) -> None:
    """A byte of a record is another."""
    batch[-1] ^= 0xFF


def unknown_codec(batch: bytearray) -> None:
    """Compressed by a codec that there is not, its checksum right."""
    _compressed_by(7, batch)


def undecodable(batch: bytearray) -> None:
    """Said to be zstd, its checksum right."""
    _compressed_by(4, batch)


def no_length(batch: bytearray) -> None:
    """So short that not even the broker reads it."""
    batch[_LENGTH:12] = bytes(4)


def endless_length(batch: bytearray) -> None:
    """Longer than the log: the broker sends nothing at its offset, and no error."""
    batch[_LENGTH:12] = (0x7FFFFF00).to_bytes(4, "big")


def old_magic(batch: bytearray) -> None:
    """Said to be of an old format, whose attributes are where the checksum was: the broker sends it."""
    _of_old_format(0, batch)


def old_magic_compressed(batch: bytearray) -> None:
    """The same, by gzip: a broker that is to send what begins there fails with INVALID_RECORD."""
    _of_old_format(1, batch)


def old_magic_unknown_codec(batch: bytearray) -> None:
    """The same, by a codec that there is not: it fails with UNKNOWN_SERVER_ERROR."""
    _of_old_format(7, batch)


def _of_old_format(codec: int, batch: bytearray) -> None:
    batch[_MAGIC : _MAGIC + 2] = bytes((1, codec))


def _compressed_by(codec: int, batch: bytearray) -> None:
    batch[_ATTRIBUTES + 1] = batch[_ATTRIBUTES + 1] & ~0x07 | codec
    batch[_CRC:_ATTRIBUTES] = calc_crc32c(bytes(batch[_ATTRIBUTES:])).to_bytes(4, "big")


def damage(kafka: KafkaCluster, topic: str, base_offset: int, how: Callable[[bytearray], None], partition: int = 0) -> None:
    """Damages the batch of a partition that begins at this offset, under the running broker."""
    segment = _segment(kafka.nodes[0].folder / "data" / f"{topic}-{partition}")
    log, at = segment.read_bytes(), 0
    while int.from_bytes(log[at : at + 8], "big") != base_offset:
        at += 12 + int.from_bytes(log[at + _LENGTH : at + _LENGTH + 4], "big")
        assert at < len(log), f"no batch of {topic} begins at offset {base_offset}"
    batch = bytearray(log[at : at + 12 + int.from_bytes(log[at + _LENGTH : at + _LENGTH + 4], "big")])
    how(batch)
    with segment.open("r+b") as file:
        file.seek(at)
        file.write(batch)


async def publish_odd_names(bootstrap: str, topic: str, count: int) -> None:
    """Appends a batch of so many records, every other with a header whose name is no UTF-8, which the broker takes."""
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        batch = producer.create_batch()
        for number in range(count):
            batch.append(key=None, value=b"%d" % number, timestamp=None, headers=[(f"name{number % 2}", b"x"), ("n", None)])
        batch.close()
        content = bytearray(bytes(batch._build()).replace(b"name1", b"n\xffme1"))
        content[_CRC:_ATTRIBUTES] = calc_crc32c(bytes(content[_ATTRIBUTES:])).to_bytes(4, "big")
        batch._buffer = content
        await (await producer.send_batch(batch, topic, partition=0))


def _segment(folder: Path) -> Path:
    (only,) = folder.glob("*.log")
    return only
