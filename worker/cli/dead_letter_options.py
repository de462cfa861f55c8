"""Which dead letters a command is about: its options, and the selection and plan that they make."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import typer

from schemas import ids
from schemas.events import Reason, Topic
from schemas.times import parse_time
from worker import EXIT_INTERRUPTED
from worker.cli.arguments import decode_argument
from worker.cli.long_commands import ProgressReport, confirm
from worker.cli.show import fail
from worker.cli.signals import run_until_stopped
from worker.ops.dead_letters import DeadLetterError, DeadLetters, Plan, Selection, State, normal_id
from worker.redis.client import create_redis
from worker.settings import Settings
from worker.tasks import run_until
from worker.topics import TopicNames

T = TypeVar("T")


class Shown(StrEnum):
    """Which dead letters a command shows."""

    OPEN = "open"
    REPLAYED = "replayed"
    PARKED = "parked"
    ALL = "all"


Reasons = Annotated[list[Reason] | None, typer.Option("--reason", help="only of this reason (repeatable)")]

Sources = Annotated[list[str] | None, typer.Option("--source", help="only of this source (repeatable)")]

OfTopic = Annotated[Topic | None, typer.Option("--topic", help="only records of this topic")]

OfBooking = Annotated[str | None, typer.Option("--booking", help="only of this booking, where it can be read")]

From = Annotated[str | None, typer.Option("--from", help="written at or after this time, as 2026-11-22T10:00:00Z")]

To = Annotated[str | None, typer.Option("--to", help="written before this time")]

OfState = Annotated[Shown, typer.Option("--state", help="what became of them")]

Most = Annotated[int | None, typer.Option("--max", min=1, help="at most so many")]

Ids = Annotated[list[str] | None, typer.Argument(help="ids as `list` shows them, partition:offset")]


def selection_of(
    settings: Settings,
    reasons: list[Reason] | None,
    sources: list[str] | None,
    topic: Topic | None,
    booking: str | None,
    begin: str | None,
    end: str | None,
    state: State | None = State.OPEN,
    dead_letters: list[str] | None = None,
) -> Selection:
    topics = TopicNames.of(settings.topic_prefix)
    normal = None if booking is None else ids.booking_id(decode_argument(booking))
    if booking is not None and normal is None:
        raise typer.BadParameter("--booking: is no bookingId")
    try:
        # one that is named twice is one
        names = tuple(dict.fromkeys(normal_id(decode_argument(each)) for each in dead_letters or ()))
    except DeadLetterError as error:
        raise typer.BadParameter(str(error)) from None
    return Selection(
        reasons=tuple(reason.value for reason in reasons or ()),
        sources=tuple(map(decode_argument, sources or ())),
        topic={Topic.EVENTS: topics.events, Topic.BOOKINGS: topics.bookings, None: None}[topic],
        booking=normal,
        begin=_time("--from", begin),
        end=_time("--to", end),
        ids=names,
        state=state,
    )


def wanted_state(shown: Shown) -> State | None:
    return None if shown is Shown.ALL else State(shown.value)


def _time(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else parse_time(text)
    except ValueError:
        raise typer.BadParameter(f"{option}: write a time with its offset, as 2026-11-22T10:00:00Z") from None


@asynccontextmanager
async def open_letters(settings: Settings) -> AsyncIterator[DeadLetters]:
    redis = create_redis(settings)
    try:
        yield DeadLetters(settings, redis)
    finally:
        await redis.aclose()


def read_letters(settings: Settings, work: Callable[[DeadLetters], Awaitable[T]]) -> T:
    """The result of work that changes nothing; Ctrl-C ends it."""

    async def working() -> tuple[T]:
        async with open_letters(settings) as letters:
            return (await work(letters),)

    results = run_until_stopped(lambda stop: run_until(stop, working()))
    if results is None:
        raise typer.Exit(EXIT_INTERRUPTED)
    return results[0]


def plan_of(settings: Settings, selection: Selection, most: int | None, *, decodes: bool = False) -> Plan:
    with ProgressReport("offsets") as report:
        return read_letters(settings, lambda letters: letters.plan(selection, most, report.update, decodes=decodes))


def confirmed(settings: Settings, selection: Selection, most: int | None, name: str, yes: bool, as_json: bool) -> Plan:
    """The plan of a command that changes something, shown and confirmed; exits if nothing is selected or the answer is no."""
    plan = plan_of(settings, selection, most, decodes=name == "replay")
    if len(selection.ids) > plan.stats.count and not most:
        found = f"only {plan.stats.count} of these {len(selection.ids)} dead letters are {selection.state}"
        fail(f"{found}: `attendance dead-letters show` says what became of one")
    end_if_none(plan.stats.count, as_json)
    shown: dict[str, Any] = {name: f"{plan.stats.count:,} {selection.state} dead letters"}
    shown |= {"reasons": ", ".join(f"{key} {count:,}" for key, count in plan.stats.reasons.most_common())}
    if plan.stats.unusable:
        shown["still unusable"] = f"{plan.stats.unusable:,}: they become dead letters again"
    confirm(shown, yes=yes)
    return plan


def end_if_none(count: int, as_json: bool) -> None:
    """Exits with 0 where there is nothing to do."""
    if not count:
        print('{"selected": 0}' if as_json else "nothing selected")
        raise typer.Exit
