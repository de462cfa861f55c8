"""The commands `dead-letters …`."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from schemas import ids
from schemas.events import Reason, Topic
from schemas.times import parse_time
from worker import EXIT_INTERRUPTED
from worker.cli.arguments import decode_argument
from worker.cli.long_commands import (
    Abort,
    Ended,
    ProgressReport,
    Resume,
    Yes,
    abort_operation,
    check_alone,
    confirm,
    print_operation,
    run_operation,
)
from worker.cli.reads import Json
from worker.cli.services import service_settings
from worker.cli.show import fail, print_line, print_rows
from worker.cli.signals import run_until_stopped
from worker.kafka import open_producer
from worker.ops import dead_letter_files as files
from worker.ops import dead_letter_replay
from worker.ops.dead_letters import (
    TARGET,
    Checkpoint,
    DeadLetterError,
    DeadLetters,
    Plan,
    Progress,
    Selection,
    State,
    normal_id,
    packed_selection,
    packed_windows,
    remaining_windows,
    unpacked_selection,
)
from worker.read_model.operations import Operations, Running
from worker.redis.client import create_redis
from worker.settings import Settings
from worker.tasks import run_until
from worker.topics import TopicNames

T = TypeVar("T")

dead_letters_app = typer.Typer(
    help="Look at records that could not be used, mend them and send them again.", no_args_is_help=True
)

#: Rows of each table of `stats`.
_ROWS = 20


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
Work = Callable[[DeadLetters, Checkpoint, Progress, asyncio.Event], Coroutine[Any, Any, bool]]


@dead_letters_app.command("stats")
def stats(
    reasons: Reasons = None,
    sources: Sources = None,
    topic: OfTopic = None,
    booking: OfBooking = None,
    from_: From = None,
    to: To = None,
    state: OfState = Shown.OPEN,
    as_json: Json = False,
) -> None:
    """Count dead letters by reason, source and hour."""
    settings = service_settings()
    selection = _selection(settings, reasons, sources, topic, booking, from_, to, _state(state))
    counted = _plan(settings, selection, None).stats
    tables = {"reason": counted.reasons, "source": counted.sources, "hour": counted.hours}
    if as_json:
        print(json.dumps({"count": counted.count} | {f"{name}s": dict(table) for name, table in tables.items()}))
        return
    print(f"{counted.count} dead letters")
    for name, table in tables.items():
        shown = sorted(table.items())[-_ROWS:] if name == "hour" else table.most_common(_ROWS)
        if shown:
            print_rows([{name: key, "count": count} for key, count in shown], as_json=False)
        if len(table) > _ROWS:
            print(f"the {'last' if name == 'hour' else 'most frequent'} {_ROWS} of {len(table)}; --json has all")


@dead_letters_app.command("list")
def list_(
    reasons: Reasons = None,
    sources: Sources = None,
    topic: OfTopic = None,
    booking: OfBooking = None,
    from_: From = None,
    to: To = None,
    state: OfState = Shown.OPEN,
    most: Annotated[int, typer.Option("--max", min=1, help="at most so many")] = 100,
    as_json: Json = False,
) -> None:
    """List dead letters, of each partition the oldest first."""
    settings = service_settings()
    selection = _selection(settings, reasons, sources, topic, booking, from_, to, _state(state))

    async def listing(letters: DeadLetters) -> list[dict[str, Any]]:
        rows, done = list[dict[str, Any]](), 0
        async with aclosing(letters.select(await letters.windows(selection), selection)) as parts:
            async for part in parts:
                done += part.end - part.begin
                report.update(done)
                rows += [record.shown(state) for record, state in part.records[: most + 1 - len(rows)]]
                if len(rows) > most:
                    break
        return rows

    with ProgressReport("offsets") as report:
        rows = _read(settings, listing)
    columns = ("id", "state", "reason", "source", "bookingId", "firstSeen", "replays", "detail")
    print_rows(rows[:most], as_json, columns)
    if len(rows) > most:
        print(f"more dead letters match: --max {10 * most}, or `attendance dead-letters export`", file=sys.stderr)


@dead_letters_app.command("show")
def show(
    dead_letter: Annotated[str, typer.Argument(metavar="ID", help="id as `list` shows it, partition:offset")],
    as_json: Json = False,
) -> None:
    """Show a dead letter with its headers and its value."""
    line = files.line_of(*_read(service_settings(), lambda letters: letters.show(decode_argument(dead_letter))))
    if as_json:
        sys.stdout.write(line.decode())
        return
    document = json.loads(line)
    value = document.pop("value", None)
    headers = document.pop("headers")
    for name, content in (*document.items(), *((f"header {name}", content) for name, content in headers)):
        print_line(f"{name}: {'' if content is None else content}")
    print("value:")
    for text in (json.dumps(value, indent=2) if isinstance(value, dict) else str(value)).splitlines():
        print_line(text)


@dead_letters_app.command("export")
def export(
    context: typer.Context,
    output: Annotated[Path | None, typer.Option("--output", help="new file to write; without it stdout")] = None,
    reasons: Reasons = None,
    sources: Sources = None,
    topic: OfTopic = None,
    booking: OfBooking = None,
    from_: From = None,
    to: To = None,
    state: OfState = Shown.OPEN,
    most: Most = None,
    resume: Resume = None,
    abort: Abort = None,
    as_json: Json = False,
) -> None:
    """Write dead letters as JSON lines, which `replay --edit` takes once they are mended."""
    check_alone(context)
    settings = service_settings()
    if abort is not None:
        abort_operation(settings, abort, "dead-letters export", as_json=as_json)
        return
    selection = _selection(settings, reasons, sources, topic, booking, from_, to, _state(state))
    if resume is None and output is None:
        _export_to_stdout(settings, selection, most)
        return
    request: dict[str, Any] = {}
    if resume is None:
        assert output is not None
        path = output.absolute()
        if path.exists():
            fail(f"{path} exists: name a new file, or --resume the export that wrote it")
        windows = _plan(settings, selection, most).windows if most else _read(settings, lambda each: each.windows(selection))
        request = {"selection": packed_selection(selection), "windows": packed_windows(windows), "file": str(path)}

    async def work(letters: DeadLetters, checkpoint: Checkpoint, progress: Progress, stop: asyncio.Event) -> bool:
        asked = checkpoint.request
        windows = remaining_windows(letters.topics.dead_letters, asked["windows"], checkpoint.position)
        selection = unpacked_selection(asked["selection"])
        with files.appending(Path(asked["file"]), checkpoint.position.get("byte", 0)) as file:
            return await files.export(letters, windows, selection, file, checkpoint, progress, stop)

    operation = _operate(settings, "dead-letters export", f"file {request.get('file')}", request, resume, work)
    _end(operation, as_json)


@dead_letters_app.command("replay")
def replay(
    context: typer.Context,
    reasons: Reasons = None,
    sources: Sources = None,
    topic: OfTopic = None,
    booking: OfBooking = None,
    from_: From = None,
    to: To = None,
    edit: Annotated[
        Path | None, typer.Option("--edit", help="file of `export`, mended by hand: replay its dead letters as it has them")
    ] = None,
    most: Most = None,
    yes: Yes = False,
    resume: Resume = None,
    abort: Abort = None,
    as_json: Json = False,
) -> None:
    """Send open dead letters back to the topic they came from; one that failed three times is parked."""
    check_alone(context)
    settings = service_settings()
    if abort is not None:
        abort_operation(settings, abort, "dead-letters replay", as_json=as_json)
        return
    selection = _selection(settings, reasons, sources, topic, booking, from_, to)
    request: dict[str, Any] = {"selection": packed_selection(selection)}
    if resume is None and edit is not None:
        path = edit.absolute()
        count, lines = files.check_edited(path, most)
        _end_if_none(count, as_json)
        confirm({"replay": f"{count:,} dead letters as {path} has them, those that are open"}, yes=yes)
        request |= {"edit": str(path), "sha256": files.digest_of(path), "lines": lines}
    elif resume is None:
        request["windows"] = packed_windows(_confirmed(settings, selection, most, "replay", yes, as_json).windows)

    async def work(letters: DeadLetters, checkpoint: Checkpoint, progress: Progress, stop: asyncio.Event) -> bool:
        asked = checkpoint.request
        selection = unpacked_selection(asked["selection"])
        async with open_producer(settings) as producer:
            replaying = dead_letter_replay.Replay(letters, producer, checkpoint)
            if "edit" not in asked:
                windows = remaining_windows(letters.topics.dead_letters, asked["windows"], checkpoint.position)
                return await replaying.run(windows, selection, progress, stop)
            path = Path(asked["edit"])
            if files.digest_of(path) != asked["sha256"]:
                raise DeadLetterError(f"{path} has changed since: --abort this replay, and begin another with the file")
            return await replaying.run_edited(path, asked["lines"], selection, progress, stop)

    operation = _operate(settings, "dead-letters replay", TARGET, request, resume, work)
    _end(
        operation,
        as_json,
        truncated="were cut when they were written, and cannot be sent: mend their values in an export, and --edit it",
        otherTopic="are not of this prefix's events or bookings: set the prefix that wrote them",
        parked=f"failed {dead_letter_replay.MOST_REPLAYS} times and are parked: mend them, `unpark`, and replay with --edit",
        absent="are not in the topic any more: publish them with `attendance publish --backfill`",
    )


@dead_letters_app.command("park")
def park(
    context: typer.Context,
    dead_letters: Ids = None,
    reasons: Reasons = None,
    sources: Sources = None,
    topic: OfTopic = None,
    booking: OfBooking = None,
    from_: From = None,
    to: To = None,
    most: Most = None,
    yes: Yes = False,
    resume: Resume = None,
    abort: Abort = None,
    as_json: Json = False,
) -> None:
    """Set open dead letters aside: they are no longer listed as open, and are not replayed."""
    check_alone(context)
    settings = service_settings()
    selection = _selection(settings, reasons, sources, topic, booking, from_, to, State.OPEN, dead_letters)
    _park(settings, "park", selection, most, yes, resume, abort, as_json)


@dead_letters_app.command("unpark")
def unpark(
    context: typer.Context,
    dead_letters: Ids = None,
    reasons: Reasons = None,
    sources: Sources = None,
    topic: OfTopic = None,
    booking: OfBooking = None,
    from_: From = None,
    to: To = None,
    most: Most = None,
    yes: Yes = False,
    resume: Resume = None,
    abort: Abort = None,
    as_json: Json = False,
) -> None:
    """Open parked dead letters again: each may be replayed three more times."""
    check_alone(context)
    settings = service_settings()
    selection = _selection(settings, reasons, sources, topic, booking, from_, to, State.PARKED, dead_letters)
    _park(settings, "unpark", selection, most, yes, resume, abort, as_json)


def _park(
    settings: Settings,
    name: str,
    selection: Selection,
    most: int | None,
    yes: bool,
    resume: str | None,
    abort: str | None,
    as_json: bool,
) -> None:
    if abort is not None:
        abort_operation(settings, abort, f"dead-letters {name}", as_json=as_json)
        return
    request: dict[str, Any] = {}
    if resume is None:
        plan = _confirmed(settings, selection, most, name, yes, as_json)
        request = {"selection": packed_selection(selection), "windows": packed_windows(plan.windows)}

    async def work(letters: DeadLetters, checkpoint: Checkpoint, progress: Progress, stop: asyncio.Event) -> bool:
        asked = checkpoint.request
        windows = remaining_windows(letters.topics.dead_letters, asked["windows"], checkpoint.position)
        selection = unpacked_selection(asked["selection"])
        return await dead_letter_replay.park(letters, windows, selection, checkpoint, progress, stop)

    _end(_operate(settings, f"dead-letters {name}", TARGET, request, resume, work), as_json)


def _selection(
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


def _state(shown: Shown) -> State | None:
    return None if shown is Shown.ALL else State(shown.value)


def _time(option: str, text: str | None) -> int | None:
    try:
        return None if text is None else parse_time(text)
    except ValueError:
        raise typer.BadParameter(f"{option}: write a time with its offset, as 2026-11-22T10:00:00Z") from None


@asynccontextmanager
async def _open(settings: Settings) -> AsyncIterator[DeadLetters]:
    redis = create_redis(settings)
    try:
        yield DeadLetters(settings, redis)
    finally:
        await redis.aclose()


def _read(settings: Settings, work: Callable[[DeadLetters], Awaitable[T]]) -> T:
    """The result of work that changes nothing; Ctrl-C ends it."""

    async def working() -> tuple[T]:
        async with _open(settings) as letters:
            return (await work(letters),)

    results = run_until_stopped(lambda stop: run_until(stop, working()))
    if results is None:
        raise typer.Exit(EXIT_INTERRUPTED)
    return results[0]


def _plan(settings: Settings, selection: Selection, most: int | None, *, decodes: bool = False) -> Plan:
    with ProgressReport("offsets") as report:
        return _read(settings, lambda letters: letters.plan(selection, most, report.update, decodes=decodes))


def _confirmed(settings: Settings, selection: Selection, most: int | None, name: str, yes: bool, as_json: bool) -> Plan:
    """The plan of a command that changes something, shown and confirmed; exits if nothing is selected or the answer is no."""
    plan = _plan(settings, selection, most, decodes=name == "replay")
    if len(selection.ids) > plan.stats.count and not most:
        found = f"only {plan.stats.count} of these {len(selection.ids)} dead letters are {selection.state}"
        fail(f"{found}: `attendance dead-letters show` says what became of one")
    _end_if_none(plan.stats.count, as_json)
    shown: dict[str, Any] = {name: f"{plan.stats.count:,} {selection.state} dead letters"}
    shown |= {"reasons": ", ".join(f"{key} {count:,}" for key, count in plan.stats.reasons.most_common())}
    if plan.stats.unusable:
        shown["still unusable"] = f"{plan.stats.unusable:,}: they become dead letters again"
    confirm(shown, yes=yes)
    return plan


def _end_if_none(count: int, as_json: bool) -> None:
    """Exits with 0 where there is nothing to do."""
    if not count:
        print('{"selected": 0}' if as_json else "nothing selected")
        raise typer.Exit


def _export_to_stdout(settings: Settings, selection: Selection, most: int | None) -> None:
    windows = _plan(settings, selection, most).windows if most else None

    async def exporting(stop: asyncio.Event) -> bool:
        async with _open(settings) as letters:
            chosen = await letters.windows(selection) if windows is None else windows
            return await files.export(letters, chosen, selection, sys.stdout.buffer, None, lambda _: None, stop)

    if not run_until_stopped(exporting):
        raise typer.Exit(EXIT_INTERRUPTED)


def _operate(
    settings: Settings, command: str, target: str, request: Mapping[str, Any], resume: str | None, work: Work
) -> Ended:
    """Runs an operation, or goes on with one."""

    async def begin(operations: Operations) -> Running:
        return await operations.begin(command, target, request, _end_of(request))

    async def working(running: Running, stop: asyncio.Event) -> bool:
        checkpoint = Checkpoint(running)
        unit = "lines" if "lines" in checkpoint.request else "offsets"
        async with _open(settings) as letters:
            with ProgressReport(unit, _total(checkpoint)) as report:
                return await work(letters, checkpoint, report.update, stop)

    return run_operation(settings, command, resume, begin, working)


def _end(ended: Ended, as_json: bool, **shortfalls: str) -> None:
    """Prints what an operation did; exits with 130 if it was interrupted, with 1 if something was not done."""
    counts = ended.operation.counts
    print_operation(ended.operation, as_json=as_json)
    if not ended.is_done:
        raise typer.Exit(EXIT_INTERRUPTED)
    lines = [f"{counts[name]:,} dead letters {text}" for name, text in shortfalls.items() if name in counts]
    for line in lines:
        print_line(line, sys.stderr)
    if lines:
        raise typer.Exit(1)


def _end_of(request: Mapping[str, Any]) -> dict[str, int]:
    if "lines" in request:
        return {"line": request["lines"]}
    return {number: stop for number, (_, stop) in request["windows"].items()}


def _total(checkpoint: Checkpoint) -> int:
    request = checkpoint.request
    if "lines" in request:
        return int(request["lines"])
    position = checkpoint.position
    return sum(stop - max(start, position.get(number, start)) for number, (start, stop) in request["windows"].items())
