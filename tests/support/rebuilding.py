"""A system whose read models are rebuilt: events go on, a reader asks all the time, and the keys that are there."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from tests.integration.test_main_job import World, envelope, exact
from tests.support.commands import Command, shared_commands
from tests.support.killed_operations import with_redis
from tests.support.system import Record, System, attendances_of
from worker.read_model.keys import operations_key
from worker.read_model.operations import ENDED, STALE_SECONDS, Operation, Operations
from worker.read_model.reader import AttendanceReader
from worker.redis.client import create_redis, masters

#: The booking and the sessions that rest while the others change.
RESTING = "resting"
_SESSIONS = tuple(f"resting-{number}" for number in range(5))
#: Records of each step of the flow, and seconds between two.
_STEP, _PAUSE = 4, 0.04


class Flow:
    """Publishes the rest of a world, a few records at a time, then nothing; again with every `start`."""

    def __init__(self, system: System, world: World, seed: int) -> None:
        self._system = system
        records = world.records(system, random.Random(seed))
        self._records = records
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def publish(self, share: float) -> None:
        """Publishes this share of what is left at once."""
        count = int(len(self._records) * share)
        self._system.publish(self._take(count))

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        assert self._thread is not None
        self._thread.join()

    @property
    def is_empty(self) -> bool:
        return not self._records

    def _run(self) -> None:
        while self._records and not self._stopped.wait(_PAUSE):
            self._system.publish(self._take(_STEP))

    def _take(self, count: int) -> Sequence[Record]:
        taken, self._records = self._records[:count], self._records[count:]
        return taken


def publish_resting(system: System) -> None:
    """Publishes a booking that nothing changes later, with an attendance of each of its sessions."""
    at = 1_795_000_000_000_000
    listed = [{"sessionId": session} for session in _SESSIONS]
    data = {"bookingId": RESTING, "numberOfParticipants": 2, "status": "CONFIRMED", "sessions": listed}
    records = [system.booking(envelope("r", "bookings", "booking.upserted", at, data))]
    for number, session in enumerate(_SESSIONS):
        seen = {"bookingId": RESTING, "sessionId": session, "status": "ATTENDED", "numberOfAttendees": 1 + number % 2}
        event = envelope(str(number), "resting", "attendance.set", at + number, seen)
        records.append(system.event(event, [("attendance-received", exact(at + number))]))
    system.publish(records)


class Asking:
    """Asks about the resting booking all the time; any error, and any other answer than the first one, is kept."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._stopped = threading.Event()
        self._expected = system.read(_resting)
        assert len(self._expected[0]) == len(_SESSIONS)
        self.asked = 0
        self.wrong: list[Any] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stopped.set()
        self._thread.join()

    async def _ask(self) -> None:
        client = create_redis(self._system.settings)
        reader = AttendanceReader(client, self._system.settings.redis_namespace)
        try:
            while not self._stopped.is_set():
                try:
                    found = await _resting(reader)
                    if found != self._expected:
                        self.wrong.append(found)
                except Exception as error:  # noqa: BLE001 - any error of a reader counts
                    self.wrong.append(error)
                self.asked += 1
                await asyncio.sleep(0.005)
        finally:
            await client.aclose()


async def _resting(reader: AttendanceReader) -> tuple[Any, ...]:
    """What readers see of the resting booking: pages, tallies, the roster, its summary."""
    attendances = sorted(await attendances_of(reader, bookingId=RESTING), key=lambda each: each["id"])
    of_sessions = [await attendances_of(reader, sessionId=session) for session in _SESSIONS]
    tallies = [await reader.session(session) for session in _SESSIONS]
    summary = await reader.booking(RESTING)
    bare = [{name: value for name, value in (each or {}).items() if name != "freshness"} for each in (*tallies, summary)]
    return attendances, of_sessions, bare


def begin(system: System, *arguments: str, **environment: str) -> Command:
    """Starts ``attendance rebuild ARGUMENTS…``."""
    return shared_commands().start("rebuild", *arguments, **{**system.environment, **environment})


def operation_of(system: System) -> Operation | None:
    """The newest operation; None: there is none."""
    name = system.settings.redis_namespace
    return next(iter(with_redis(system.settings, lambda client: Operations(client, name).all())), None)


def set_back(system: System) -> None:
    """What Redis has of the newest operation becomes older, as if its process had been gone for long."""
    operation = operation_of(system)
    if operation is None or operation.state in ENDED:
        return

    async def setting(client: Any) -> None:
        key, by = operations_key(system.settings.redis_namespace), int(STALE_SECONDS * 1000) + 1
        await client.hincrby(key, f"saved:{operation.id}", -by)
        if lock := await client.hget(key, f"lock:{operation.target}"):
            holder, owner, saved = json.loads(lock)
            await client.hset(key, f"lock:{operation.target}", json.dumps([holder, owner, saved - by]))

    with_redis(system.settings, setting)


def namespaces(system: System) -> set[str]:
    """The namespaces of which there is any key."""

    async def scanning(client: Any) -> set[str]:
        pattern = f"{system.settings.redis_namespace}:*"
        names = [key.decode() for each in await masters(client) async for key in each.scan_iter(pattern, count=1000)]
        return {name.partition(":{")[0] for name in names if ":{" in name}

    return with_redis(system.settings, scanning)


def until_only(system: System, *expected: str, timeout: float = 10) -> None:
    """Until there are keys of these namespaces only."""
    deadline = time.monotonic() + timeout
    while (found := namespaces(system)) != {*expected}:
        assert time.monotonic() < deadline, f"there are keys of {found}, not only of {expected}"
        time.sleep(0.2)
