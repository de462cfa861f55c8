"""Sets and deletes: published to Kafka, answered when the partition's watermark has passed them.

Each is given a time later than the attendance that is shown (contract, "The law of the fold"). What readers do not see is a
deletion later than now, which reaches what a fast clock wrote: an event before it does not count. The deletions of this
process are remembered; one of another process shows in that nothing came of the event, which is then published again with a
later time, in steps up to the latest that the law lets count. Both orders of two changes that overlap are right.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

from redis.exceptions import RedisError

from schemas.attendance import Attendance
from schemas.events import EventType
from schemas.times import format_exact_time
from worker.read_model.reader import AttendanceReader, ReaderError
from worker.settings import Settings, micros
from worker.topics import TopicNames
from worker.web.errors import ApiError, problem_of, refused, unavailable
from worker.web.http.bodies import write_json
from worker.web.permissions import API_SOURCE
from worker.web.publisher import Publisher
from worker.web.watermark_waiter import Marks

#: How much later than now, as parts of the clock tolerance, the event is said to have happened, try by try.
_LEADS = (0, 1 / 8, 1 / 2, 1)
_REMEMBERED = 10_000

Shown = tuple[Attendance, int] | None
"""An attendance with its effective time, microseconds."""
T = TypeVar("T")


class Change(NamedTuple):
    """One attendance to set or to delete; the ids are normalised."""

    kind: EventType
    booking_id: str
    session_id: str
    data: dict[str, Any]


class _Outrun(Exception):
    """Something later keeps the change from counting."""


class Changes:
    """Carries changes out.

    Args:
        now: microseconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        reader: AttendanceReader,
        publisher: Publisher,
        marks: Marks,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._topic = TopicNames.of(settings.topic_prefix).events
        self._seconds = settings.api_set_timeout.total_seconds()
        self._tolerance = micros(settings.clock_tolerance)
        self._reader = reader
        self._publisher = publisher
        self._marks = marks
        self._now = now
        self._last: dict[tuple[str, str], int] = {}

    async def carry_out(self, changes: Sequence[Change]) -> list[Attendance | ApiError | None]:
        """Publishes all of them; of several that concern the same attendance the last one wins.

        Returns:
            For each what is shown after it, None where nothing is, or why it did not come about.
        """
        deadline = asyncio.get_running_loop().time() + self._seconds
        done: list[Attendance | ApiError | None] = [None] * len(changes)
        pending = list(range(len(changes)))
        for lead in _LEADS:
            came = await self._attempt([changes[index] for index in pending], int(lead * self._tolerance), deadline)
            outrun = []
            for index, each in zip(pending, came, strict=True):
                if isinstance(each, _Outrun):
                    outrun.append(index)
                    done[index] = refused(409, "CHANGED_MEANWHILE", "something later keeps undoing this change: look again")
                else:
                    done[index] = each
            pending = outrun
            if not pending:
                break
        return done

    async def _attempt(
        self, changes: Sequence[Change], lead: int, deadline: float
    ) -> list[Attendance | ApiError | _Outrun | None]:
        shown = await _each(self._reader.latest(change.booking_id, change.session_id) for change in changes)
        # chosen at once and in order, so that changes of one attendance cannot swap places while they wait
        times = [
            seen if isinstance(seen, ApiError | _Outrun) else self._choose(change, seen, lead)
            for change, seen in zip(changes, shown, strict=True)
        ]
        return await _each(
            self._apply(change, seen, at, deadline) for change, seen, at in zip(changes, shown, times, strict=True)
        )

    def _choose(self, change: Change, shown: Shown, lead: int) -> int:
        """A time later than what is shown and than what this process published before, microseconds."""
        pair = (change.booking_id, change.session_id)
        now = self._now()
        chosen = max(now + lead, (0 if shown is None else shown[1]) + 1, self._last.get(pair, 0) + 1)
        if len(self._last) >= _REMEMBERED:
            # a time that has passed tells no more than the clock does
            self._last = {known: at for known, at in self._last.items() if at >= now}
        self._last[pair] = chosen
        return chosen

    async def _apply(
        self, change: Change, before: Shown | ApiError | _Outrun, at: int | ApiError | _Outrun, deadline: float
    ) -> Attendance | None:
        if isinstance(before, Exception):
            raise before
        assert isinstance(at, int)
        value = write_json(event(change, at))
        place = await self._publisher.publish(self._topic, change.booking_id, value, self._seconds)
        if not await self._marks.passed(change.booking_id, place.partition, place.offset, deadline):
            raise _kept()
        try:
            after = await self._reader.latest(change.booking_id, change.session_id)
        except (ReaderError, RedisError, TimeoutError):
            # it is published; that reading failed now must not sound as if it were not
            raise _kept() from None
        if _is_outrun(change, before, after):
            raise _Outrun
        return None if after is None else after[0]


def _kept() -> ApiError:
    said = "the event is kept and counts as soon as a worker applies it; it need not be sent again"
    return unavailable("NOT_APPLIED_YET", said)


def event(change: Change, at: int) -> dict[str, Any]:
    """The CloudEvent of a change that happened then, microseconds."""
    return {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": API_SOURCE,
        "type": change.kind.value,
        "time": format_exact_time(at),
        "data": {"bookingId": change.booking_id, "sessionId": change.session_id, **change.data},
    }


def _is_outrun(change: Change, before: Shown, after: Shown) -> bool:
    """Whether the change left no trace: not it, nor anything newer, is what one sees.

    Its time may count earlier than it says, where this machine's clock is far ahead of Kafka's; so what was seen before
    is what to compare with.
    """
    if after is None:
        return change.kind is EventType.SET
    return before is not None and after[1] <= before[1]


async def _each(work: Iterable[Awaitable[T]]) -> list[T | ApiError | _Outrun]:
    """What each comes to, or why not, where that was to be expected."""
    came: list[T | ApiError | _Outrun] = []
    for each in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(each, _Outrun):
            came.append(each)
        elif isinstance(each, Exception):
            problem = problem_of(each)
            if problem is None:
                raise each
            came.append(problem)
        elif isinstance(each, BaseException):
            raise each
        else:
            came.append(each)
    return came
