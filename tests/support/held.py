"""Arrivals and devices as Redis holds them, of all partitions and minutes: more than one answer of the reader has."""

from collections.abc import Sequence
from typing import Any

from worker.read_model.devices import NewestEvent, score_of, unpack_newest
from worker.read_model.keys import ARRIVALS, DEVICES, DEVICES_AT
from worker.read_model.partition_reader import NamespaceView
from worker.read_model.reader import AttendanceReader
from worker.read_model.watermark import parse_hash


async def arrivals_of(reader: AttendanceReader, sessions: Sequence[str]) -> dict[str, dict[int, int]]:
    """sessionId -> minute -> people, for those that have any."""

    async def read(view: NamespaceView) -> list[list[Any]]:
        commands = [("HGETALL", ARRIVALS + session) for session in sessions]
        return (await view.read(view.all_partitions, [commands for _ in view.all_partitions]))[0]

    found: dict[str, dict[int, int]] = {}
    for answers in await reader._resolver.answer(read):
        for session, answer in zip(sessions, answers, strict=True):
            for minute, people in parse_hash(answer).items():
                minutes = found.setdefault(session, {})
                minutes[int(minute)] = minutes.get(int(minute), 0) + int(people)
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
