"""Reads the read models: what dashboards import. No scan of keys; a question is one round trip, a page two or a few more.

Errors are those of `worker.read_model.partition_reader`, and `schemas.query.request.QueryError` of whoever parses a request.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from uuid import UUID

from redis.asyncio import Redis

from schemas.alerts import AlertData, AlertKind
from schemas.attendance import Attendance, attendance_id
from schemas.query.list_cursor import decode_list_cursor
from schemas.query.request import Filter, Page, Query, QueryError, Violation, cursor_in, parse_filter, parse_query
from schemas.query.violations import Rule
from worker.read_model.documents import unpack, updated_of
from worker.read_model.freshness import Freshness, Partition, freshness_of
from worker.read_model.partition_reader import Live, NotServing, OtherLayout, ReaderError
from worker.read_model.query import pages
from worker.read_model.query.get_batcher import Gets
from worker.read_model.query.pages import ListPage, Narrowed
from worker.read_model.query.planner import count
from worker.read_model.ranked import Place as RankedPlace
from worker.read_model.resolver import Finder
from worker.redis.client import Client, Server, create_redis
from worker.redis.cluster import Cluster
from worker.settings import Settings

__all__ = ["AttendanceReader", "Freshness", "ListPage", "NotServing", "OtherLayout", "Partition", "Place", "ReaderError"]

_LARGEST_PAGE = 1000
_NO_CURSOR = "is no cursor of this list; send next of a page as it came, or start without one"
_OTHER_LIST = "is of a list with other conditions; leave those out or start without the cursor"


class Place(NamedTuple):
    """How far the partition of a booking is."""

    partition: int
    events_offset: int
    """The next of the events topic to apply."""
    state: str


class AttendanceReader:
    """Answers from Redis alone.

    Args:
        client: of `worker.redis.client.create_redis`, or redis-py's of one server.
        base: ``ATTENDANCE_NAMESPACE``.
    """

    def __init__(self, client: Client | Redis, base: str) -> None:
        # over the same pool, which closes with the client that was given
        asked = client if isinstance(client, Server | Cluster) else Server(connection_pool=client.connection_pool)
        self._finder = Finder(asked, base)
        self._gets = Gets(self._finder)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str = "redis://localhost:6379/0", namespace: str = "attendance"
    ) -> "AsyncIterator[AttendanceReader]":
        """A reader with connections of its own, which end with the context.

        Args:
            url: as ``ATTENDANCE_REDIS`` has it; no other variable is looked at.
            namespace: ``ATTENDANCE_NAMESPACE`` of the workers.

        Raises:
            ValueError: the address cannot be used; the message says how to write it.
        """
        client = create_redis(Settings.for_redis(url))
        try:
            yield cls(client, namespace)
        finally:
            await client.aclose()

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

    async def parse(self, document: object, *, first_filter_only: bool = False) -> Query:
        """The query of a request; its cursor must be one that a reader gave out. See `schemas.query.request.parse_query`.

        Raises:
            QueryError: with everything that is wrong, up to a bound.
        """
        cursor = cursor_in(document)
        key = None if cursor is None else await self._finder.cursor_key(cursor)
        return parse_query(document, first_filter_only=first_filter_only, key=key)

    async def query(self, query: Query | Mapping[str, Any]) -> Page:
        """A page of attendances, in the query's order, whichever way it was reached.

        Args:
            query: also as the API takes it: ``{"filter": …, "sort": […], "cursorPaging": {"limit", "cursor"}}``.

        Raises:
            schemas.query.request.QueryError: that is no query; its violations name the fields.
        """
        if not isinstance(query, Query):
            query = await self.parse(dict(query))
        return await self._finder.answer(lambda live: pages.page(live, query))

    async def count(self, wanted: Filter | Mapping[str, Any]) -> int:
        """How many attendances a filter matches, which may be as the API takes it; raises as `query` does."""
        if not isinstance(wanted, Filter):
            wanted = parse_filter(dict(wanted))
        return await self._finder.answer(lambda live: count(live, wanted))

    async def session(self, session_id: str) -> dict[str, Any] | None:
        """The session's tally with its freshness, None where no booking lists it and nobody came."""
        return await self._finder.answer(lambda live: pages.session(live, session_id))

    async def sessions(self, limit: int = 1000) -> list[str]:
        """Ids of sessions that have a tally, in the order of their bytes, at most ``limit``."""
        return await self._finder.answer(lambda live: pages.sessions(live, limit))

    async def booking(self, booking_id: str) -> dict[str, Any] | None:
        """The booking's summary with its freshness, None where it has no session."""
        return await self._finder.answer(lambda live: pages.booking(live, booking_id))

    async def no_shows(self, limit: int = 100) -> dict[str, Any]:
        """Summaries of the bookings with the highest noShowRate, ties by bookingId; none that never missed a session."""
        found = await self._finder.answer(lambda live: pages.no_shows(live, limit, None))
        return {"bookings": found.items, "freshness": found.freshness.document()}

    async def no_shows_page(self, limit: int = 100, cursor: str | None = None) -> ListPage:
        """A page of `no_shows`. Raises QueryError where the cursor is none of this list."""
        after, _ = await self._place(pages.NO_SHOWS, cursor, ())
        return await self._finder.answer(lambda live: pages.no_shows(live, limit, after))

    async def alerts(
        self,
        *,
        kind: AlertKind | None = None,
        session_id: str | None = None,
        booking_id: str | None = None,
        limit: int = 1000,
    ) -> list[AlertData]:
        """Open alerts, newest first; all given conditions hold."""
        found: list[AlertData] = []
        cursor = None
        while True:
            size = min(limit - len(found), _LARGEST_PAGE)
            page = await self.alerts_page(kind=kind, session_id=session_id, booking_id=booking_id, limit=size, cursor=cursor)
            found += page.items
            cursor = page.next
            if cursor is None or len(found) >= limit:
                return found

    async def alerts_page(
        self,
        *,
        kind: AlertKind | None = None,
        session_id: str | None = None,
        booking_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ListPage:
        """A page of `alerts`; with a cursor the conditions may be left out.

        Raises:
            QueryError: the cursor is none of this list, or of other conditions.
        """
        given = Narrowed(None if kind is None else str(kind), session_id, booking_id)
        after, narrowed = await self._place(pages.ALERTS, cursor, given)
        return await self._finder.answer(lambda live: pages.alerts(live, Narrowed(*narrowed), limit, after))

    async def _place(
        self, name: str, text: str | None, given: tuple[str | None, ...]
    ) -> tuple[RankedPlace | None, tuple[str | None, ...]]:
        """Where the page behind a cursor of a list begins, and the conditions of that list."""
        if text is None:
            return None, given
        try:
            cursor = decode_list_cursor(text, await self._finder.cursor_key(text))
            if cursor.list != name or len(cursor.conditions) != len(given):
                raise ValueError("of another list")
        except ValueError:
            raise QueryError([Violation("cursor", _NO_CURSOR, Rule.MALFORMED.value)]) from None
        if any(said is not None and said != carried for said, carried in zip(given, cursor.conditions, strict=True)):
            raise QueryError([Violation("cursor", _OTHER_LIST, Rule.OTHER_QUERY.value)])
        return RankedPlace(cursor.score, cursor.member), cursor.conditions

    async def count_alerts(self, kind: AlertKind) -> int:
        """How many alerts of a kind are open."""
        return await self._finder.answer(lambda live: pages.count_alerts(live, kind))

    async def count_bookings(self) -> int:
        """How many bookings have a summary."""
        lengths = await self._finder.answer(lambda live: pages.of_booking_buckets(live, "HLEN"))
        return sum(map(sum, lengths))

    async def bookings(self) -> list[str]:
        """Every booking that has a summary; for small installations and tests, it reads all of them."""
        names = await self._finder.answer(lambda live: pages.of_booking_buckets(live, "HKEYS"))
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
