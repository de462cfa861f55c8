"""Reads the read models: what dashboards import. No scan of keys; a question is one round trip, a page two or a few more.

Errors are those of `worker.read_model.live`, and `schemas.query.QueryError` of whoever parses a request.
"""

from typing import Any, NamedTuple
from uuid import UUID

from redis.asyncio import Redis

from schemas.alerts import AlertData, AlertKind
from schemas.attendance import Attendance, attendance_id
from schemas.query import Filter, Page, Query
from worker.read_model import questions
from worker.read_model.client import Client, Server
from worker.read_model.cluster import Cluster
from worker.read_model.documents import unpack, updated_of
from worker.read_model.freshness import Freshness, Partition, freshness_of
from worker.read_model.gets import Gets
from worker.read_model.live import Finder, Live, NotServing, OtherLayout, ReaderError
from worker.read_model.planner import count

__all__ = ["AttendanceReader", "Freshness", "NotServing", "OtherLayout", "Partition", "Place", "ReaderError"]


class Place(NamedTuple):
    """How far the partition of a booking is."""

    partition: int
    events_offset: int
    """The next of the events topic to apply."""
    state: str


class AttendanceReader:
    """Answers from Redis alone.

    Args:
        client: of `worker.read_model.client.create_redis`, or redis-py's of one server.
        base: ``ATTENDANCE_NAMESPACE``.
    """

    def __init__(self, client: Client | Redis, base: str) -> None:
        # over the same pool, which closes with the client that was given
        asked = client if isinstance(client, Server | Cluster) else Server(connection_pool=client.connection_pool)
        self._finder = Finder(asked, base)
        self._gets = Gets(self._finder)

    async def get(self, attendance_id: str) -> Attendance | None:
        """The attendance with this id, None where there is none (or it is no GUID)."""
        found = await self.latest_of(attendance_id)
        return None if found is None else found[0]

    async def latest_of(self, attendance_id: str) -> tuple[Attendance, int] | None:
        """As `get`, with the effective time of its newest event uncut, microseconds."""
        try:
            identity = UUID(attendance_id).bytes
        except ValueError:
            return None
        return await self._latest(identity)

    async def latest(self, booking_id: str, session_id: str) -> tuple[Attendance, int] | None:
        """The attendance of a booking at a session, with the effective time of its newest event uncut, microseconds."""
        return await self._latest(attendance_id(booking_id, session_id))

    async def place(self, booking_id: str) -> Place:
        """How far the booking's partition is, for whoever waits for a watermark."""

        async def place(live: Live) -> Place:
            number = live.of(booking_id)
            offset, state = await live.mark(number, "events.offset", "state")
            return Place(number, int(offset or 0), state or "")

        return await self._finder.answer(place)

    async def query(self, query: Query) -> Page:
        """A page of attendances, in the query's order, whichever way it was reached."""
        return await self._finder.answer(lambda live: questions.page(live, query))

    async def count(self, wanted: Filter) -> int:
        """How many attendances a filter matches."""
        return await self._finder.answer(lambda live: count(live, wanted))

    async def session(self, session_id: str) -> dict[str, Any] | None:
        """The session's tally with its freshness, None where no booking lists it and nobody came."""
        return await self._finder.answer(lambda live: questions.session(live, session_id))

    async def sessions(self, limit: int = 1000) -> list[str]:
        """Ids of sessions that have a tally, in the order of their bytes, at most ``limit``."""
        return await self._finder.answer(lambda live: questions.sessions(live, limit))

    async def booking(self, booking_id: str) -> dict[str, Any] | None:
        """The booking's summary with its freshness, None where it has no session."""
        return await self._finder.answer(lambda live: questions.booking(live, booking_id))

    async def no_shows(self, limit: int = 100) -> dict[str, Any]:
        """Summaries of the bookings with the highest noShowRate, ties by bookingId; none that never missed a session."""
        return await self._finder.answer(lambda live: questions.no_shows(live, limit))

    async def alerts(
        self,
        *,
        kind: AlertKind | None = None,
        session_id: str | None = None,
        booking_id: str | None = None,
        limit: int = 1000,
    ) -> list[AlertData]:
        """Open alerts, newest first; all given conditions hold."""
        return await self._finder.answer(lambda live: questions.alerts(live, kind, session_id, booking_id, limit))

    async def count_alerts(self, kind: AlertKind) -> int:
        """How many alerts of a kind are open."""
        return await self._finder.answer(lambda live: questions.count_alerts(live, kind))

    async def count_bookings(self) -> int:
        """How many bookings have a summary."""
        lengths = await self._finder.answer(lambda live: questions.of_booking_buckets(live, "HLEN"))
        return sum(map(sum, lengths))

    async def bookings(self) -> list[str]:
        """Every booking that has a summary; for small installations and tests, it reads all of them."""
        names = await self._finder.answer(lambda live: questions.of_booking_buckets(live, "HKEYS"))
        return sorted(name.decode() for buckets in names for some in buckets for name in some)

    async def status(self) -> list[Partition]:
        """Each partition's watermark, also of those that do not serve."""
        return await self._finder.answer(Live.marks)

    async def freshness(self) -> Freshness:
        """How fresh the read models are altogether."""
        return freshness_of(await self.status())

    async def _latest(self, identity: bytes) -> tuple[Attendance, int] | None:
        packed = await self._gets.packed(identity)
        attendance = None if packed is None else unpack(identity, packed)
        return None if attendance is None or packed is None else (attendance, updated_of(packed))
