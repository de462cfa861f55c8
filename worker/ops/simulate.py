"""Simulates kiosks and scanners: a scenario by its name, or any mixture of faults: bursts, offline gaps, duplicates, wrong
clocks, invalid payloads."""

import asyncio
import random
import time
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer

from schemas.events import EventType
from schemas.times import format_time
from worker.ops import scenarios
from worker.ops.publish import Outgoing, Progress, cloud_event, event, send
from worker.settings import Settings
from worker.topics import TopicNames

_SECOND = 1_000_000
_MINUTE = 60 * _SECOND
_HOUR = 60 * _MINUTE
_KINDS = (EventType.CHECK_IN, EventType.PARTICIPANT_SCANNED, EventType.NO_SHOW, EventType.SET)
_WEIGHTS = (60, 25, 10, 5)
_BAD_VALUES = (b"{", b"[]", b'{"specversion":"1.0"}', b"\xff\xfe")


class Plan(NamedTuple):
    """What to simulate; shares are within 0-1, ``rate`` in events per second (0: as fast as it goes)."""

    events: int
    rate: float
    bookings: int
    sessions: int
    burst: float
    duplicates: float
    offline: float
    bad_clocks: float
    bad_payloads: float
    seed: int


async def run(producer: AIOKafkaProducer, settings: Settings, plan: Plan, progress: Progress, stop: asyncio.Event) -> int:
    """Publishes the bookings and then the events of the plan, until ``stop`` is set; returns the number of events."""
    topics = TopicNames.of(settings.topic_prefix)
    await send(producer, bookings(topics, plan, _now()))
    planned = events(topics, plan)
    began, sent, stopped = time.monotonic(), 0, asyncio.create_task(stop.wait())
    step = batch_size(plan.rate)
    while not stop.is_set() and (batch := list(islice(planned, step))):
        sent += await send(producer, batch)
        progress(sent)
        if plan.rate:
            # a burst: the first of every ten seconds is denser, the mean rate stays
            density = plan.burst if (time.monotonic() - began) % 10 < 1 else 1.0
            pause = max(0.0, sent / plan.rate / density - (time.monotonic() - began))
            await asyncio.wait([stopped], timeout=pause)
    stopped.cancel()
    return sent


async def play(
    producer: AIOKafkaProducer, settings: Settings, made: scenarios.Play, speed: float, progress: Progress, stop: asyncio.Event
) -> int:
    """Plays a scenario that begins now, until it is over or ``stop`` is set; returns the number of events.

    Args:
        speed: by how much faster than real time; the events' times are those of sending all the same.
    """
    topics, began = TopicNames.of(settings.topic_prefix), _now()
    moments = [scenarios.scaled(step.sent, speed) for step in made.steps]
    await send(producer, scenarios.outgoing_bookings(topics, made, began))
    sent, stopped = 0, asyncio.create_task(stop.wait())
    while not stop.is_set() and sent < len(made.steps):
        due = made.steps[sent : bisect_right(moments, (_now() - began) / _SECOND)]
        sent += await send(producer, (scenarios.outgoing(topics, step, began, speed) for step in due))
        progress(sent)
        if sent < len(made.steps):
            await asyncio.wait([stopped], timeout=max(0.0, moments[sent] - (_now() - began) / _SECOND))
    stopped.cancel()
    return sent


def batch_size(rate: float) -> int:
    """How many events are sent at once: at most a twentieth of a second's, and at least one."""
    return max(1, min(1000, int(rate / 20))) if rate else 1000


def bookings(topics: TopicNames, plan: Plan, now: int) -> Iterator[Outgoing]:
    """One record per booking, which lists all sessions; some are for several people, some are canceled."""
    chance = random.Random(plan.seed)
    sessions = [
        {
            "sessionId": _session(i),
            "startsAt": format_time(now + i * _HOUR),
            "endsAt": format_time(now + (i + 1) * _HOUR),
        }
        for i in range(plan.sessions)
    ]
    for number in range(plan.bookings):
        data = {
            "bookingId": _booking(number),
            "numberOfParticipants": chance.choice((1, 1, 2, 4)),
            "status": "CANCELED" if chance.random() < 0.01 else "CONFIRMED",
            "sessions": sessions,
        }
        yield event(topics, cloud_event(f"b{number}", "/booking-system", EventType.BOOKING_UPSERTED, now, data))


def events(topics: TopicNames, plan: Plan) -> Iterator[Outgoing]:
    """The events of the plan, with duplicates and late ones; their time is that of the iteration."""
    chance = random.Random(plan.seed + 1)
    late: list[Outgoing] = []
    for number in range(plan.events):
        outgoing = _event(topics, plan, chance, number)
        if chance.random() < plan.offline:
            late.append(outgoing)
        else:
            yield outgoing
        if chance.random() < plan.duplicates:
            yield outgoing
        if len(late) >= 50:
            yield from late
            late = []
    yield from late


def _event(topics: TopicNames, plan: Plan, chance: random.Random, number: int) -> Outgoing:
    booking = _booking(chance.randrange(plan.bookings))
    if chance.random() < plan.bad_payloads:
        return Outgoing(topics.events, booking, chance.choice(_BAD_VALUES), [])
    kind = chance.choices(_KINDS, _WEIGHTS)[0]
    data: dict[str, Any] = {"bookingId": booking, "sessionId": _session(chance.randrange(plan.sessions))}
    if kind is EventType.CHECK_IN and chance.random() < 0.3:
        data["numberOfAttendees"] = chance.randint(0, 4)
    elif kind is EventType.PARTICIPANT_SCANNED:
        data["participantId"] = f"p{chance.randrange(4)}"
    elif kind is EventType.SET:
        data |= {
            "status": chance.choice(("ATTENDED", "NOT_ATTENDED", "NOT_SET")),
            "numberOfAttendees": chance.randint(0, 2),
        }
    now = _now()
    if chance.random() < plan.bad_clocks:
        now += chance.choice((-40 * 24 * _HOUR, -6 * _HOUR, 3 * _MINUTE, 5 * _HOUR))
    return event(topics, cloud_event(f"e{plan.seed}-{number}", f"/devices/kiosk-{chance.randrange(20)}", kind, now, data))


def _booking(number: int) -> str:
    return f"BK-{number:06d}"


def _session(number: int) -> str:
    return f"session-{number:03d}"


def _now() -> int:
    return time.time_ns() // 1000
