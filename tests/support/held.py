"""Arrivals and devices as Redis holds them, of all partitions and minutes: more than one answer of the reader has."""

from collections.abc import Sequence
from typing import Any

from worker.read_model.devices import NewestEvent, score_of, unpack_newest
from worker.read_model.keys import DEVICES, DEVICES_AT
from worker.read_model.partition_reader import NamespaceView
from worker.read_model.query.devices import attendees_by_minute
from worker.read_model.reader import AttendanceReader
from worker.read_model.watermark import parse_hash


async def arrivals_of(reader: AttendanceReader, sessions: Sequence[str]) -> dict[str, dict[int, int]]:
    """sessionId -> minute -> people, for those that have any."""
    found: dict[str, dict[int, int]] = {}
    for session in sessions:
        counts, _ = await reader._resolver.answer(lambda view: attendees_by_minute(view, session, 0, 1 << 33))  # noqa: B023
        if counts:
            found[session] = dict(counts)
    return found


async def devices_of(reader: AttendanceReader) -> dict[str, tuple[int, int, int]]:
    """source -> effective time, time, received of its newest event over all partitions."""

    async def read(view: NamespaceView) -> list[list[Any]]:
        commands = [("HGETALL", DEVICES), ("ZRANGE", DEVICES_AT, 0, -1)]
        return (await view.read(view.all_partitions, [commands for _ in view.all_partitions]))[0]

    found: dict[str, NewestEvent] = {}
    for devices, by_time in await reader._resolver.answer(read):
        held = parse_hash(devices)
        assert by_time == sorted(held, key=lambda name: (score_of(held[name]), name))
        for name, newest in held.items():
            source, event = name.decode(), unpack_newest(newest)
            found[source] = max(event, found.get(source, event))
    return {source: tuple(newest) for source, newest in found.items()}
