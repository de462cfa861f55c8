"""Reads the read models; the public interface, for dashboards too. A lookup is one round trip, a page two or a few more.

Raises the errors of `worker.read_model.errors`, and `schemas.query.request.QueryError` for an invalid request.
"""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple
from uuid import UUID

from redis.asyncio import Redis

from schemas.alerts import AlertData, AlertKind
from schemas.attendance import Attendance, attendance_id
from schemas.query.list_cursor import decode_list_cursor
from schemas.query.request import Filter, Page, Query, QueryError, Violation, cursor_in, parse_filter, parse_query
from schemas.query.violations import Rule
from worker.read_model.documents import unpack, updated_of
from worker.read_model.errors import NotServing, OtherLayout, ReaderError
from worker.read_model.freshness import Freshness, Partition, freshness_of
from worker.read_model.partition_reader import NamespaceView
from worker.read_model.query import devices, pages, roster, sessions
from worker.read_model.query.batcher import Batcher
from worker.read_model.query.devices import MOST_MINUTES
from worker.read_model.query.get_batcher import GetBatcher
from worker.read_model.query.pages import AlertConditions, ListPage
from worker.read_model.query.planner import count
from worker.read_model.query.roster import RosterConditions, RosterOrder, RosterState
from worker.read_model.query.sessions import SessionConditions
from worker.read_model.ranked import ScoredMember
from worker.read_model.resolver import NamespaceResolver
from worker.redis.client import Client, Server, create_redis
from worker.redis.cluster import Cluster
from worker.settings import Settings

__all__ = [
    "AttendanceReader",
    "Freshness",
    "ListPage",
    "NotServing",
    "OtherLayout",
    "Partition",
    "PartitionPosition",
    "ReaderError",
]

#: Entries of one page of a list.
LARGEST_PAGE = 1000
_TALLIES_PER_ROUND_TRIP = 16
_OTHER_CONDITIONS = "belongs to a list with other conditions; leave these out or start without the cursor"


class PartitionPosition(NamedTuple):
    """How far a booking's partition has been applied."""

    partition: int
    events_offset: int
    """The next offset of the events topic to apply."""
    state: str


class AttendanceReader:
    """Reads attendances, tallies, summaries and alerts from Redis; needs no Kafka.

    Args:
        client: from `worker.redis.client.create_redis`, or redis-py's client of a single server.
        base: ``ATTENDANCE_NAMESPACE``.
    """

    def __init__(self, client: Client | Redis, base: str) -> None:
        # shares the connection pool, which the caller closes with the client
        own_client = client if isinstance(client, Server | Cluster) else Server(connection_pool=client.connection_pool)
        self._resolver = NamespaceResolver(own_client, base)
        self._gets = GetBatcher(self._resolver)
        self._tallies: Batcher[str, dict[str, Any] | None] = Batcher(self._read_tallies, _TALLIES_PER_ROUND_TRIP)

    @classmethod
    @asynccontextmanager
    async def connect(
        cls, url: str = "redis://localhost:6379/0", namespace: str = "attendance"
    ) -> "AsyncIterator[AttendanceReader]":
        """A context manager that opens a client for a reader, and closes it.

        Args:
            url: as in ``ATTENDANCE_REDIS``; environment variables are not read.
            namespace: ``ATTENDANCE_NAMESPACE`` of the workers.

        Raises:
            ValueError: the URL is invalid; the message shows the valid form.
        """
        client = create_redis(Settings.for_redis(url))
        try:
            yield cls(client, namespace)
        finally:
            await client.aclose()

    async def get(self, attendance_id: str) -> Attendance | None:
        """The attendance with this id; None if there is none, or if the id is not a GUID."""
        result = await self.latest_of(attendance_id)
        return None if result is None else result[0]

    async def latest_of(self, attendance_id: str) -> tuple[Attendance, int] | None:
        """Like `get`, with the untruncated effective time of its newest event, in microseconds."""
        try:
            identity = UUID(attendance_id).bytes
        except ValueError:
            return None
        return await self._read_latest(identity)

    async def latest(self, booking_id: str, session_id: str) -> tuple[Attendance, int] | None:
        """The attendance of a booking at a session, and the untruncated effective time of its newest event, in microseconds."""
        return await self._read_latest(attendance_id(booking_id, session_id))

    async def tables(self) -> str:
        """The number of the tables from which the live namespace is filled."""

        async def tables(view: NamespaceView) -> str:
            return view.tables

        return await self._resolver.answer(tables)

    async def topic_prefix(self) -> str:
        """The prefix of the topics of the live namespace; empty: none is recorded, it is that of the settings."""

        async def topic_prefix(view: NamespaceView) -> str:
            return view.topic_prefix

        return await self._resolver.answer(topic_prefix)

    async def place(self, booking_id: str) -> PartitionPosition:
        """How far the booking's partition has been applied; used to wait until an event is visible."""

        async def place(view: NamespaceView) -> PartitionPosition:
            number = view.of(booking_id)
            offset, state = await view.watermark_fields(number, "events.offset", "state")
            return PartitionPosition(number, int(offset or 0), state or "")

        return await self._resolver.answer(place)

    async def parse(self, document: object, *, first_filter_only: bool = False) -> Query:
        """Parses a request and verifies the signature of its cursor. See `schemas.query.request.parse_query`.

        Raises:
            QueryError: has all violations, up to a limit.
        """
        cursor = cursor_in(document)
        key = None if cursor is None else await self._resolver.cursor_key(cursor)
        return parse_query(document, first_filter_only=first_filter_only, key=key)

    async def query(self, query: Query | Mapping[str, Any]) -> Page:
        """A page of attendances in the query's order, also when paging backwards.

        Args:
            query: parsed, or a request as in the API: ``{"filter": …, "sort": […], "cursorPaging": {"limit", "cursor"}}``.

        Raises:
            schemas.query.request.QueryError: the query is invalid; the violations name the fields.
        """
        if not isinstance(query, Query):
            query = await self.parse(dict(query))
        return await self._resolver.answer(lambda view: pages.page(view, query))

    async def count(self, filter_: Filter | Mapping[str, Any]) -> int:
        """The number of attendances that match a filter, parsed or as in the API; raises the errors of `query`."""
        if not isinstance(filter_, Filter):
            filter_ = parse_filter(dict(filter_))
        return await self._resolver.answer(lambda view: count(view, filter_))

    async def session(self, session_id: str) -> dict[str, Any] | None:
        """The session's tally with its freshness; None if no booking lists the session and it has no attendance."""
        return await self._resolver.answer(lambda view: sessions.session(view, session_id))

    async def tally(self, session_id: str) -> dict[str, Any] | None:
        """The session's tally without its freshness; those that are asked for at the same time share a round trip."""
        return await self._tallies.ask(session_id)

    async def _read_tallies(self, session_ids: Sequence[str]) -> dict[str, dict[str, Any] | Exception | None]:
        return dict(await self._resolver.answer(lambda view: sessions.tallies(view, session_ids)))

    async def sessions(self, limit: int = 1000) -> list[str]:
        """Ids of sessions that have a tally, in byte order, at most ``limit``."""
        return await self._resolver.answer(lambda view: pages.sessions(view, limit))

    async def sessions_page(
        self,
        *,
        starts_from: int | None = None,
        starts_before: int | None = None,
        ends_after: int | None = None,
        ends_before: int | None = None,
        descending: bool | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ListPage:
        """A page of sessions by their earliest start, ties by sessionId; those without a start are last in both orders.

        An item is a `session` without its freshness. A page can have fewer items than ``limit``, or none, although there is a
        next one: a call looks at about 1,000 sessions. A condition on the start, or the end, leaves out sessions without one.

        Args:
            starts_from: as all of these, microseconds since the epoch. Starts and ends are known in milliseconds.
            descending: None: as the list of the cursor, without one ascending. With a cursor all conditions can be omitted.

        Raises:
            QueryError: the cursor is not from this list, or has other conditions.
        """
        requested = SessionConditions(starts_from, starts_before, ends_after, ends_before, descending).texts()
        after, texts = await self._start_of_page(sessions.SESSION_LIST, cursor, requested)
        conditions = SessionConditions.of(texts)
        return await self._resolver.answer(lambda view: sessions.sessions_page(view, conditions, limit, after))

    async def named_sessions(
        self,
        session_ids: Collection[str],
        *,
        starts_from: int | None = None,
        starts_before: int | None = None,
        ends_after: int | None = None,
        ends_before: int | None = None,
        descending: bool = False,
    ) -> ListPage:
        """Those of these sessions, of which there are few, that exist and meet the conditions of `sessions_page`: one page."""
        conditions = SessionConditions(starts_from, starts_before, ends_after, ends_before, descending)
        return await self._resolver.answer(lambda view: sessions.named_sessions(view, session_ids, conditions))

    async def roster_page(
        self,
        session_id: str,
        *,
        order: RosterOrder | None = None,
        states: Collection[RosterState] = (),
        prefix: str = "",
        alerts: Literal["open"] | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ListPage | None:
        """A page of the bookings of a session, those without attendance included; None if there is no such session.

        An item has ``bookingId``, ``state`` (`RosterState`), ``expectedParticipants`` (0 if the booking is unknown or canceled)
        and ``attendance`` (None if there is none). With a cursor the conditions can be omitted.

        Args:
            order: by bookingId, or by state and then bookingId; None: as the list of the cursor, without one by bookingId.
            states: of which a booking must have one; empty: any.
            prefix: what a bookingId begins with, in normal form.
            alerts: ``open``: bookings with an open alert at the session. Where it has more than 1,000 of these, a page looks at
                1,000 bookings, and can have fewer items than ``limit`` although there is a next one.

        Raises:
            QueryError: the cursor is not from this list, or has other conditions.
        """
        requested = RosterConditions.requested(session_id, order, states, prefix, alerts)
        after, texts = await self._start_of_page(roster.ROSTER_LIST, cursor, requested)
        conditions = RosterConditions(*texts)
        return await self._resolver.answer(lambda view: roster.roster_page(view, conditions, limit, after))

    async def arrivals(self, session_id: str, since: int, until: int) -> dict[str, Any] | None:
        """Attendees of a session by the minute in which they arrived; None if there is no such session.

        Has ``sessionId``, ``from``, ``to``, ``arrivals`` (in order, of each minute with any: ``minute``, ``attendees``) and
        ``freshness``. Each minute is that of the newest ATTENDED report, or of the attendance.set, of the attendances that are
        ATTENDED now.

        Args:
            since: the first minute since the epoch.
            until: the minute after the last one, at most `MOST_MINUTES` later.

        Raises:
            ValueError: there is no minute between them, or there are too many.
            TooMuchWork: the session has more than `MOST_ARRIVED` ATTENDED attendances.
        """
        if not 0 < until - since <= MOST_MINUTES:
            raise ValueError(f"ask for 1 to {MOST_MINUTES} minutes")
        return await self._resolver.answer(lambda view: devices.arrivals(view, session_id, since, until))

    async def devices_page(self, *, limit: int = 100, cursor: str | None = None) -> ListPage:
        """A page of devices (sources of events) by newest event, the newest first; then those with dead letters alone.

        An item has ``source``; of its newest event over all partitions ``eventTime`` (effective), ``time`` and ``received``
        (None: only dead letters are known); ``silentSeconds`` since it was last heard of, ``isSilent`` where that is much
        longer than usual; and ``estimates``, which are begun anew when Redis is filled anew, and are no more than that.
        A page can have fewer items than ``limit`` although there is a next one.

        Raises:
            QueryError: the cursor is not from this list.
        """
        after, (part,) = await self._start_of_page(devices.DEVICE_LIST, cursor, (None,))
        return await self._resolver.answer(lambda view: devices.devices_page(view, part, limit, after))

    async def booking(self, booking_id: str) -> dict[str, Any] | None:
        """The booking's summary with its freshness; None if it has no session."""
        return await self._resolver.answer(lambda view: pages.booking(view, booking_id))

    async def no_shows(self, limit: int = 100) -> dict[str, Any]:
        """Summaries of the bookings with the highest noShowRate, ties by bookingId; without bookings whose rate is 0."""
        result = await self._resolver.answer(lambda view: pages.no_shows(view, limit, None))
        return {"bookings": result.items, "freshness": result.freshness.document()}

    async def no_shows_page(self, limit: int = 100, cursor: str | None = None) -> ListPage:
        """A page of `no_shows`. Raises QueryError if the cursor is not from this list."""
        after, _ = await self._start_of_page(pages.NO_SHOW_LIST, cursor, ())
        return await self._resolver.answer(lambda view: pages.no_shows(view, limit, after))

    async def alerts(
        self,
        *,
        kind: AlertKind | None = None,
        session_id: str | None = None,
        booking_id: str | None = None,
        limit: int = 1000,
    ) -> list[AlertData]:
        """Open alerts that meet all conditions, newest first."""
        alerts: list[AlertData] = []
        cursor = None
        while True:
            size = min(limit - len(alerts), LARGEST_PAGE)
            page = await self.alerts_page(kind=kind, session_id=session_id, booking_id=booking_id, limit=size, cursor=cursor)
            alerts += page.items
            cursor = page.next
            if cursor is None or len(alerts) >= limit:
                return alerts

    async def alerts_page(
        self,
        *,
        kind: AlertKind | None = None,
        session_id: str | None = None,
        booking_id: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> ListPage:
        """A page of `alerts`. With a cursor the conditions can be omitted.

        Raises:
            QueryError: the cursor is not from this list, or has other conditions.
        """
        requested = AlertConditions(None if kind is None else str(kind), session_id, booking_id)
        after, conditions = await self._start_of_page(pages.ALERT_LIST, cursor, requested)
        return await self._resolver.answer(lambda view: pages.alerts(view, AlertConditions(*conditions), limit, after))

    async def _start_of_page(
        self, name: str, text: str | None, conditions: tuple[str | None, ...]
    ) -> tuple[ScoredMember | None, tuple[str | None, ...]]:
        """The place after which the page of a list cursor starts, and the conditions of that list."""
        if text is None:
            return None, conditions
        try:
            cursor = decode_list_cursor(text, await self._resolver.cursor_key(text))
            if cursor.list != name or len(cursor.conditions) != len(conditions):
                raise ValueError("of another list")
        except ValueError:
            raise QueryError([Violation("cursor", pages.INVALID_CURSOR, Rule.MALFORMED.value)]) from None
        if any(value is not None and value != original for value, original in zip(conditions, cursor.conditions, strict=True)):
            raise QueryError([Violation("cursor", _OTHER_CONDITIONS, Rule.OTHER_QUERY.value)])
        return ScoredMember(cursor.score, cursor.member), cursor.conditions

    async def count_alerts(self, kind: AlertKind) -> int:
        """The number of open alerts of a kind."""
        return await self._resolver.answer(lambda view: pages.count_alerts(view, kind))

    async def count_bookings(self) -> int:
        """The number of bookings that have a summary."""
        lengths = await self._resolver.answer(lambda view: pages.read_booking_buckets(view, "HLEN"))
        return sum(map(sum, lengths))

    async def bookings(self) -> list[str]:
        """Every booking that has a summary. It reads all of them: for small installations and tests."""
        names = await self._resolver.answer(lambda view: pages.read_booking_buckets(view, "HKEYS"))
        return sorted(name.decode() for buckets in names for bucket in buckets for name in bucket)

    async def status(self) -> list[Partition]:
        """The watermark of each partition, also of those that cannot be read now."""
        return await self._resolver.answer(NamespaceView.watermarks)

    async def live_status(self) -> tuple[str, list[Partition]]:
        """The live namespace, and `status`."""

        async def live_status(view: NamespaceView) -> tuple[str, list[Partition]]:
            return view.namespace, await view.watermarks()

        return await self._resolver.answer(live_status)

    async def partition(self, number: int) -> Partition:
        """The watermark of one partition, also of one that cannot be read now."""
        return await self._resolver.answer(lambda view: view.watermark(number))

    async def freshness(self) -> Freshness:
        """The freshness over all partitions."""
        return freshness_of(await self.status())

    async def _read_latest(self, identity: bytes) -> tuple[Attendance, int] | None:
        packed = await self._gets.packed(identity)
        attendance = None if packed is None else unpack(identity, packed)
        return None if attendance is None or packed is None else (attendance, updated_of(packed))
