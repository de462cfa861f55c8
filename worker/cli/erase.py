"""The command `erase`."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, NoReturn, TextIO, TypeVar

import typer

from schemas import ids
from worker import EXIT_INTERRUPTED
from worker.cli.arguments import decode_argument
from worker.cli.long_commands import (
    Abort,
    ProgressReport,
    Resume,
    Yes,
    check_alone,
    confirm,
    get_operation,
    print_operation,
    run_operation,
)
from worker.cli.reads import Json
from worker.cli.services import service_settings
from worker.cli.show import fail, print_line
from worker.durations import DURATION_HINT, duration, micros
from worker.ops import erase as ops
from worker.ops import retention
from worker.ops.archive_erase import erase_from_archive, erased_so_far
from worker.read_model.builds import with_live_tables
from worker.read_model.operations import ENDED, Operation, Operations, Running, State
from worker.read_model.reader import AttendanceReader
from worker.redis.client import create_redis
from worker.settings import Settings
from worker.stream.group_topic import find_erase_key

T = TypeVar("T")
Reading = Callable[[AttendanceReader], Coroutine[Any, Any, T]]
#: Bookings of one call, since the operation keeps what is left to do.
_MOST = 10_000
_Many = list[str] | None


def erase(
    context: typer.Context,
    booking: Annotated[_Many, typer.Option("--booking", help="this booking; repeatable")] = None,
    file: Annotated[str | None, typer.Option("--file", help="bookings, one id a line; - for stdin")] = None,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="bookings whose last session ended so long ago, as 365d; first prints the tallies of their sessions",
        ),
    ] = None,
    archives: Annotated[
        list[Path] | None, typer.Option("--archives", metavar="DIR", help="also from this archive; repeatable")
    ] = None,
    resume: Resume = None,
    abort: Abort = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Erase bookings for good: from tables, read models, alerts, changelogs and archives."""
    check_alone(context)
    settings = asyncio.run(with_live_tables(service_settings()))
    if abort is not None:
        _abort(settings, abort, as_json=as_json)
        return
    operation = None if resume is None else get_operation(settings, resume)
    folders = [str(each.resolve()) for each in archives or ()]
    if before is not None and (booking or file):
        raise typer.BadParameter("give either bookings or an age", param_hint="--before")
    if operation is None and before is not None:
        _erase_before(settings, _age(before), folders, yes=yes, as_json=as_json)
        return
    if operation is None:
        bookings = _bookings(booking, file)
        if not bookings:
            raise typer.BadParameter("name bookings with --booking or --file, or an age with --before")
        confirm(_plan(settings, bookings, folders), yes=yes)
    elif operation.command == ops.COMMAND and operation.state not in ENDED and "left" not in operation.position:
        fail(f"{operation.id} has forgotten its bookings, since it was being aborted: --abort it")
    else:
        bookings = []
    _erase(settings, operation, bookings, folders, as_json=as_json)


def _bookings(given: _Many, file: str | None) -> list[str]:
    """The normalised ids, each once."""
    names = [decode_argument(each) for each in given or ()]
    if file is not None:
        try:
            text = sys.stdin.read() if file == "-" else Path(decode_argument(file)).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            fail(f"{file} cannot be read ({error}): name a file of UTF-8 lines")
        names += [line for line in text.splitlines() if line.strip()]
    found = dict.fromkeys(ids.booking_id(name) or _refuse(name) for name in names)
    if len(found) > _MOST:
        raise typer.BadParameter(f"{len(found):,} bookings: give at most {_MOST:,} at a time")
    return list(found)


def _refuse(name: str) -> NoReturn:
    raise typer.BadParameter(f"{name[:200]!r} is no bookingId")


def _age(text: str) -> timedelta:
    age = duration(text)
    if age is None:
        raise typer.BadParameter(DURATION_HINT, param_hint="--before")
    return age


def _erase_before(settings: Settings, age: timedelta, folders: Sequence[str], *, yes: bool, as_json: bool) -> None:
    """Prints the tallies of the sessions, and erases the bookings; of many, each part is an operation of its own."""
    expired = asyncio.run(_find_expired(settings, time.time_ns() // 1000 - micros(age)))
    tallies = asyncio.run(_with_reader(settings, lambda reader: retention.read_tallies(reader, expired.sessions)))
    print(json.dumps({"tallies": tallies}) if as_json else retention.as_csv(tallies), end="\n" if as_json else "")
    # what cannot be written must not be erased
    sys.stdout.flush()
    if expired.undated:
        print_line(f"{expired.undated:,} bookings stay: it is not known when their last session ends", sys.stderr)
    if not expired.bookings:
        print_line("no booking is to be erased", sys.stderr)
        return
    confirm(_plan(settings, expired.bookings, folders), yes=yes)
    for start in range(0, len(expired.bookings), _MOST):
        # stdout has the tallies, as a file of their own
        part, file = expired.bookings[start : start + _MOST], None if as_json else sys.stderr
        _erase(settings, None, part, folders, as_json=as_json, file=file)


async def _find_expired(settings: Settings, before: int) -> retention.Expired:
    with ProgressReport("records") as progress:
        return await retention.find_expired(settings, before, await find_erase_key(settings), progress.update)


def _plan(settings: Settings, bookings: Sequence[str], folders: Sequence[str]) -> dict[str, Any]:
    found = asyncio.run(_with_reader(settings, lambda reader: ops.held(reader, bookings)))
    plan: dict[str, Any] = {
        "erase": f"{len(bookings):,} bookings",
        "with": f"{found.attendances:,} attendances"
        + (f", {found.alerts:,} open alerts" if len(bookings) <= ops.AT_ONCE else ""),
        "archives": ", ".join(folders) or "none",
        "for good": "no replay, late event or refold brings them back",
    }
    return plan


def _erase(
    settings: Settings,
    resumed: Operation | None,
    bookings: Sequence[str],
    folders: Sequence[str],
    *,
    as_json: bool,
    file: TextIO | None = None,
) -> None:
    async def begin(operations: Operations) -> Running:
        request = {"bookings": len(bookings), "archives": list(folders)}
        position = {"left": list(bookings), "horizons": {}}
        return await operations.begin(ops.COMMAND, f"{settings.topic_prefix} bookings", request, {}, position)

    async def work(running: Running, stop: asyncio.Event) -> bool:
        with ProgressReport("bookings", int(running.operation.request["bookings"])) as progress:
            return await _with_reader(settings, lambda reader: _run(settings, reader, running, stop, progress.update))

    operation, is_done = run_operation(settings, ops.COMMAND, None if resumed is None else resumed.id, begin, work)
    print_operation(operation, as_json=as_json, file=file)
    if not is_done:
        raise typer.Exit(EXIT_INTERRUPTED)
    print_line(ops.RETAINED, sys.stderr)


async def _run(
    settings: Settings, reader: AttendanceReader, running: Running, stop: asyncio.Event, progress: Callable[[int], None]
) -> bool:
    counts, position = Counter(dict(running.operation.counts)), running.operation.position
    left, horizons = list(position["left"]), dict(position["horizons"])
    begun = ops.Begun(**position["begun"]) if "begun" in position else None
    while left:
        if stop.is_set():
            return False
        part = left[: ops.AT_ONCE]
        if begun is None:
            begun = await ops.begin(settings, reader, part)
            await running.save({"left": left, "horizons": horizons, "begun": begun._asdict()})
        erased = await ops.erase(settings, reader, part, begun)
        begun = None
        counts.update(erased.counts)
        horizons.update(erased.horizons)
        left = left[ops.AT_ONCE :]
        await running.save({"left": left, "horizons": horizons}, counts)
        progress(counts["bookings"])
    for folder in running.operation.request["archives"]:
        if not await _erase_from_archive(settings, Path(folder), running, stop):
            return False
    # whoever looks at the operation later must not find the bookings; if it is killed now, there is nothing left to resume
    await running.save({**running.operation.position, "horizons": {}})
    return True


async def _erase_from_archive(settings: Settings, folder: Path, running: Running, stop: asyncio.Event) -> bool:
    """Writes an archive again without the bookings, if that was not done yet; returns False if it was stopped."""
    position = running.operation.position
    if str(folder) in (done := position.get("archives", [])):
        return True
    before = dict(position.get("archivesBefore", {}))
    if str(folder) not in before:
        before[str(folder)] = await asyncio.to_thread(erased_so_far, folder)
        position = {**position, "archivesBefore": before}
        await running.save(position)
    with ProgressReport("records of archives") as progress:
        horizons, tolerance = position["horizons"], micros(settings.clock_tolerance)
        went = await asyncio.to_thread(erase_from_archive, folder, horizons, tolerance, progress.update, stop.is_set)
    counts = {**running.operation.counts, **_count_archived(before)}
    done = [*done, str(folder)] if went.is_complete else done
    await running.save({**position, "archives": done}, counts)
    return went.is_complete


def _count_archived(before: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """What went from archives, also by processes that were killed; of each there is what had gone before this operation."""
    went = Counter[str]()
    for folder, earlier in before.items():
        now = erased_so_far(Path(folder))
        for name, after, was in zip(("archive records", "archive files"), now, earlier, strict=True):
            went[name] += max(0, after - was)
    return went


def _abort(settings: Settings, operation_id: str, *, as_json: bool) -> None:
    """What is erased stays erased; the operation forgets the bookings that are left."""

    async def work(running: Running, _: asyncio.Event) -> State:
        await running.save({})
        return State.ABORTED

    print_operation(run_operation(settings, ops.COMMAND, operation_id, _none_begins, work).operation, as_json=as_json)


async def _with_reader(settings: Settings, ask: Reading[T]) -> T:
    client = create_redis(settings)
    try:
        return await ask(AttendanceReader(client, settings.redis_namespace))
    finally:
        await client.aclose()


async def _none_begins(_: Operations) -> Running:
    raise AssertionError("an operation is resumed")
