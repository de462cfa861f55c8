"""Sets and deletes: each is published to Kafka as an event, and answered when the partition's watermark has passed the event.

By the law of the fold (`schemas/README.md`) an event has an effect only if it is later than the attendance and than its last
deletion. So the event gets a time later than the attendance that readers see. Readers do not see a deletion, and it may be
later than now: it has to be later than the events of a device whose clock is fast. This process remembers the times of its own
commands. A deletion by another process is noticed when the event has had no effect: it is then published again with a later
time, in steps up to the latest time that counts. Of two concurrent commands either may win.
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
from worker.durations import micros
from worker.read_model.reader import AttendanceReader, ReaderError
from worker.settings import Settings
from worker.web.errors import ApiError, Refused, Unavailable, problem_of
from worker.web.http.bodies import write_json
from worker.web.live_topics import LiveTopics
from worker.web.permissions import API_SOURCE
from worker.web.publisher import Publisher
from worker.web.watermark_waiter import WatermarkWaiter

#: How much later than now the event's time is at each try, as a part of the clock tolerance.
RETRY_LEADS = (0, 1 / 8, 1 / 2, 1)
_MAX_REMEMBERED = 10_000

Shown = tuple[Attendance, int] | None
"""The attendance that readers see, with its effective time, microseconds."""
T = TypeVar("T")


class Command(NamedTuple):
    """One attendance to set or to delete; the ids are normalised."""

    kind: EventType
    booking_id: str
    session_id: str
    data: dict[str, Any]


class Superseded(Exception):
    """The command had no effect: something later counts instead."""


class Commands:
    """Executes commands.

    Args:
        now: returns microseconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        reader: AttendanceReader,
        topics: LiveTopics,
        publisher: Publisher,
        waiter: WatermarkWaiter,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        self._topics = topics
        self._seconds = settings.api_set_timeout.total_seconds()
        self._tolerance = micros(settings.clock_tolerance)
        self._reader = reader
        self._publisher = publisher
        self._waiter = waiter
        self._now = now
        self._last_times: dict[tuple[str, str], int] = {}

    async def execute(self, commands: Sequence[Command]) -> list[Attendance | ApiError | None]:
        """Publishes all commands; of several for the same attendance the last one wins.

        Returns:
            For each command the attendance after it, None if there is none, or the error.
        """
        deadline = asyncio.get_running_loop().time() + self._seconds
        results: list[Attendance | ApiError | None] = [None] * len(commands)
        pending = list(range(len(commands)))
        for lead in RETRY_LEADS:
            outcomes = await self._attempt([commands[index] for index in pending], int(lead * self._tolerance), deadline)
            superseded = []
            for index, outcome in zip(pending, outcomes, strict=True):
                if isinstance(outcome, Superseded):
                    superseded.append(index)
                    results[index] = Refused(
                        409, "CHANGED_MEANWHILE", "a later event keeps overriding this change: read the attendance, then retry"
                    )
                else:
                    results[index] = outcome
            pending = superseded
            if not pending:
                break
        return results

    async def _attempt(
        self, commands: Sequence[Command], lead: int, deadline: float
    ) -> list[Attendance | ApiError | Superseded | None]:
        shown = await _gather(self._reader.latest(command.booking_id, command.session_id) for command in commands)
        # all times are chosen now and in order, so that commands for one attendance keep their order while they wait
        times = [
            before if isinstance(before, ApiError | Superseded) else self._choose_time(command, before, lead)
            for command, before in zip(commands, shown, strict=True)
        ]
        return await _gather(
            self._apply(command, before, event_time, deadline)
            for command, before, event_time in zip(commands, shown, times, strict=True)
        )

    def _choose_time(self, command: Command, shown: Shown, lead: int) -> int:
        """A time later than the attendance and than the last command of this process for it, microseconds."""
        key = (command.booking_id, command.session_id)
        now = self._now()
        chosen = max(now + lead, (0 if shown is None else shown[1]) + 1, self._last_times.get(key, 0) + 1)
        if len(self._last_times) >= _MAX_REMEMBERED:
            # a time in the past is no longer needed: the clock is later
            self._last_times = {each: event_time for each, event_time in self._last_times.items() if event_time >= now}
        self._last_times[key] = chosen
        return chosen

    async def _apply(
        self, command: Command, before: Shown | ApiError | Superseded, event_time: int | ApiError | Superseded, deadline: float
    ) -> Attendance | None:
        if isinstance(before, Exception):
            raise before
        assert isinstance(event_time, int)
        value = write_json(event(command, event_time))
        topic = (await self._topics.names()).events
        record = await self._publisher.publish(topic, command.booking_id, value, self._seconds)
        if not await self._waiter.passed(command.booking_id, record.partition, record.offset, deadline):
            raise _not_applied_yet()
        try:
            after = await self._reader.latest(command.booking_id, command.session_id)
        except (ReaderError, RedisError, TimeoutError):
            # the event is published: the error must not suggest that it is not
            raise _not_applied_yet() from None
        if _is_superseded(command, before, after):
            raise Superseded
        return None if after is None else after[0]


def _not_applied_yet() -> ApiError:
    description = "the event is kept and counts as soon as a worker applies it; it need not be sent again"
    return Unavailable("NOT_APPLIED_YET", description)


def event(command: Command, event_time: int) -> dict[str, Any]:
    """The CloudEvent of a command; ``event_time`` in microseconds."""
    return {
        "specversion": "1.0",
        "id": str(uuid4()),
        "source": API_SOURCE,
        "type": command.kind.value,
        "time": format_exact_time(event_time),
        "data": {"bookingId": command.booking_id, "sessionId": command.session_id, **command.data},
    }


def _is_superseded(command: Command, before: Shown, after: Shown) -> bool:
    """Whether the command had no effect: readers see neither it nor anything newer.

    The attendance before is compared, not the time of the event: the event counts with an earlier time if the clock of this
    machine is far ahead of Kafka's.
    """
    if after is None:
        return command.kind is EventType.SET
    return before is not None and after[1] <= before[1]


async def _gather(work: Iterable[Awaitable[T]]) -> list[T | ApiError | Superseded]:
    """The result of each awaitable, or its error if it is an expected one."""
    results: list[T | ApiError | Superseded] = []
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, Superseded):
            results.append(outcome)
        elif isinstance(outcome, Exception):
            problem = problem_of(outcome)
            if problem is None:
                raise outcome
            results.append(problem)
        elif isinstance(outcome, BaseException):
            raise outcome
        else:
            results.append(outcome)
    return results
