"""Damages a record batch where it lies in a broker's log, as a bad disk or an odd producer would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from aiokafka.record.util import calc_crc32c

from tests.services import KafkaCluster

#: Of a record batch (magic 2): 8 bytes of base offset, 4 of length, 4 of leader epoch, 1 of magic, 4 of CRC, 2 of attributes.
_LENGTH, _CRC, _ATTRIBUTES, _RECORDS = 8, 17, 21, 61


def bad_checksum(batch: bytearray) -> None:
    """A byte of a record is another."""
    batch[-1] ^= 0xFF


def unknown_codec(batch: bytearray) -> None:
    """Compressed by a codec that there is not, its checksum right."""
    _compressed_by(7, batch)


def undecodable(batch: bytearray) -> None:
    """Said to be zstd, its checksum right."""
    _compressed_by(4, batch)


def _compressed_by(codec: int, batch: bytearray) -> None:
    batch[_ATTRIBUTES + 1] = batch[_ATTRIBUTES + 1] & ~0x07 | codec
    batch[_CRC:_ATTRIBUTES] = calc_crc32c(bytes(batch[_ATTRIBUTES:])).to_bytes(4, "big")


def damage(kafka: KafkaCluster, topic: str, base_offset: int, how: Callable[[bytearray], None], partition: int = 0) -> None:
    """Damages the batch of a partition that begins at this offset; the broker is stopped and started for it."""
    kafka.stop()
    segment = _segment(kafka.nodes[0].folder / "data" / f"{topic}-{partition}")
    log, at = bytearray(segment.read_bytes()), 0
    while int.from_bytes(log[at : at + 8], "big") != base_offset:
        at += 12 + int.from_bytes(log[at + _LENGTH : at + _LENGTH + 4], "big")
        assert at < len(log), f"no batch of {topic} begins at offset {base_offset}"
    end = at + 12 + int.from_bytes(log[at + _LENGTH : at + _LENGTH + 4], "big")
    batch = log[at:end]
    how(batch)
    segment.write_bytes(log[:at] + batch + log[end:])
    kafka.start()


def _segment(folder: Path) -> Path:
    (only,) = folder.glob("*.log")
    return only
