"""`attendance replay`: re-applies events, or shows what that would change."""

import asyncio
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, NoReturn

import typer

from schemas import ids
from schemas.events import EventType
from schemas.times import parse_time
from worker import EXIT_INTERRUPTED
from worker.cli.arguments import decode_argument
from worker.cli.long_commands import (
    Abort,
    ProgressReport,
    Resume,
    Yes,
    abort_operation,
    check_alone,
    confirm,
    get_operation,
    open_operations,
    print_operation,
    print_summary,
    run_operation,
)
from worker.cli.reads import Json
from worker.cli.services import service_settings
from worker.cli.show import fail, print_line
from worker.cli.signals import run_until_stopped
from worker.domain.differences import AlertDifference, AttendanceDifference, Differences
from worker.kafka import open_producer
from worker.ops import replay as ops
from worker.ops.preview import Preview, preview
from worker.ops.replay import Bound, Control
from worker.ops.replay_sources import BAD_LINES, Files, Selection, TopicWindow, sizes_of
from worker.read_model.builds import with_live_tables
from worker.read_model.operations import Operation, Operations, Running, State
from worker.settings import Settings
from worker.tasks import run_until
from worker.topics import TopicNames

_COMMAND = "replay"
#: Files that the plan names.
_NAMED_FILES = 5
_TYPES = [kind.value for kind in EventType if kind not in (EventType.BOOKING_UPSERTED, EventType.BOOKING_DELETED)]
_Many = list[str] | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is read, and what for."""

    source: Files | TopicWindow
    total: int | None
    """Records in the window; None for files."""
    unread: int
    request: Mapping[str, Any]

    def shown(self, settings: Settings) -> dict[str, Any]:
        """For the question."""
        topics = TopicNames.of(settings.topic_prefix)
        plan: dict[str, Any] = {"publish again to": topics.events + ("" if self.total is not None else f", {topics.bookings}")}
        if self.total is None:
            names = list(self.request["files"])
            more = f", and {len(names) - _NAMED_FILES:,} more" if len(names) > _NAMED_FILES else ""
            plan["files"] = ", ".join(names[:_NAMED_FILES]) + more
        else:
            plan["offsets"] = f"{self.total:,} in the window, those of other producers' transactions among them"
            plan["left to the workers"] = f"{self.unread:,} records that they have not read yet"
        plan |= {f"only {name}": ", ".join(self.request[name]) for name in Selection._fields if self.request[name]}
        if self.request["rate"]:
            plan["rate"] = f"{self.request['rate']:g} events per second"
        return plan


def replay(
    context: typer.Context,
    files: Annotated[_Many, typer.Argument(help="files of JSON lines, folders of archives; without: the topic")] = None,
    begin: Annotated[str | None, typer.Option("--from", help="first offset, or RFC 3339 time, of the window")] = None,
    end: Annotated[str | None, typer.Option("--to", help="offset or time at which the window ends; without: now")] = None,
    all_: Annotated[bool, typer.Option("--all", help="the whole topic")] = False,
    booking: Annotated[_Many, typer.Option("--booking", help="only of this booking; repeatable")] = None,
    session: Annotated[_Many, typer.Option("--session", help="only of this session; repeatable")] = None,
    source: Annotated[_Many, typer.Option("--source", help="only from this source; repeatable")] = None,
    type_: Annotated[_Many, typer.Option("--type", help="only of this type; repeatable")] = None,
    rate: Annotated[float | None, typer.Option(min=0, help="events per second; 0: without a limit; also with --resume")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would change; write nothing")] = False,
    expect_no_change: Annotated[
        bool, typer.Option("--expect-no-change", help="exit 1, and publish nothing, if anything would change")
    ] = False,
    reset: Annotated[
        bool, typer.Option("--reset", help="with --all: set the group's offsets to the beginning, or --from; no worker may run")
    ] = False,
    resume: Resume = None,
    abort: Abort = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Re-apply a window of the events topic, or files of events; --dry-run shows what would change."""
    check_alone(context, "rate")
    if abort is not None:
        abort_operation(service_settings(), abort, _COMMAND, as_json=as_json)
        return
    if resume is not None:
        settings = asyncio.run(with_live_tables(service_settings()))
        operation = get_operation(settings, resume)
        plan = _plan_of(settings, operation, rate)
        confirm({"resume": resume, "done": _counts(operation.counts), **plan.shown(settings)}, yes=True)
        _publish(settings, plan, resume, as_json=as_json)
        return
    selection = Selection(
        frozenset(_id(each, ids.booking_id, "--booking") for each in booking or ()),
        frozenset(_id(each, ids.session_id, "--session") for each in session or ()),
        frozenset(map(decode_argument, source or ())),
        frozenset(_type(each) for each in type_ or ()),
    )
    bounds = _bound(begin, "--from"), _bound(end, "--to")
    if files and (all_ or begin or end):
        raise typer.BadParameter("--all, --from and --to are of the topic: leave them out, or the files")
    if all_ and not reset and (begin or end):
        raise typer.BadParameter("--all is the whole topic: leave it out, or --from and --to")
    if reset and (not all_ or end or any(selection) or rate or dry_run or expect_no_change):
        raise typer.BadParameter("--reset concerns all events: it goes with --all, and takes --from alone")
    if not (files or begin or end or all_ or any(selection) or dry_run or expect_no_change):
        raise typer.BadParameter("name files, a window, a filter, or --all for the whole topic")
    settings = asyncio.run(with_live_tables(service_settings()))
    if reset:
        _reset(settings, bounds[0], yes=yes, as_json=as_json)
        return
    request: dict[str, Any] = {name: sorted(getattr(selection, name)) for name in Selection._fields}
    request |= {"from": begin, "to": end, "rate": rate or 0, "files": sizes_of(map(decode_argument, files or ()))}
    plan = asyncio.run(_plan(settings, selection, bounds, request))
    if dry_run or expect_no_change:
        found = _preview(settings, plan, as_json=as_json)
        if expect_no_change and found.changes:
            fail(f"{found.changes:,} changes were not expected{'' if dry_run else ': nothing was published'}")
        if dry_run:
            _exit_for_bad_lines(plan, found.counts)
            return
    confirm(plan.shown(settings), yes=yes)
    _publish(settings, plan, None, as_json=as_json)


def _publish(settings: Settings, plan: _Plan, resume: str | None, *, as_json: bool) -> None:
    async def begin(operations: Operations) -> Running:
        end = plan.source.end if isinstance(plan.source, TopicWindow) else {}
        topic = TopicNames.of(settings.topic_prefix).events
        return await operations.begin(_COMMAND, topic, {**plan.request, "start": plan.source.start}, end)

    async def work(running: Running, stop: asyncio.Event) -> bool:
        with ProgressReport("records", plan.total) as progress:
            control = Control(stop, progress.update, float(plan.request["rate"]))
            async with open_producer(settings) as producer:
                return await ops.publish_again(plan.source, running, producer, control)

    operation, is_done = run_operation(settings, _COMMAND, resume, begin, work)
    print_operation(operation, as_json=as_json)
    if not is_done:
        raise typer.Exit(EXIT_INTERRUPTED)
    _exit_for_bad_lines(plan, operation.counts)


def _preview(settings: Settings, plan: _Plan, *, as_json: bool) -> Preview:
    def show(booking_id: str, changed: Differences) -> None:
        for document, line in _described(booking_id, changed):
            if as_json:
                print(json.dumps(document))
            else:
                print_line(line)

    async def previewing(stop: asyncio.Event) -> Preview | None:
        with ProgressReport("records", plan.total) as progress:
            return await run_until(stop, preview(settings, plan.source, Control(stop, progress.update), show))

    found = run_until_stopped(previewing)
    if found is None or not found.is_complete:
        print_line("interrupted: nothing was published", sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)
    totals = {name: count for name, count in sorted(found.counts.items()) if count}
    print_summary({"totals": totals} if as_json else totals or {"read": 0}, as_json=as_json)
    return found


def _described(booking_id: str, changed: Differences) -> list[tuple[dict[str, Any], str]]:
    """Each difference as a document and as a line."""
    found: list[tuple[dict[str, Any], str]] = []
    if changed.record_differs:
        found.append(({"change": "booking", "bookingId": booking_id}, f"{booking_id}: another booking record"))
    for attendance in changed.attendances:
        document = {"change": "attendance", "bookingId": booking_id, **attendance._asdict()}
        document["sessionId"] = document.pop("session_id")
        found.append((document, f"{booking_id} {attendance.session_id}: {_brief(attendance)}"))
    for alert in changed.alerts:
        verb = "opens" if alert.before is None else "resolves" if alert.after is None else "changes"
        document = {"change": "alert", "alert": verb, "kind": alert.kind.value, "bookingId": booking_id}
        document |= {"sessionId": alert.session_id, "before": alert.before, "after": alert.after}
        place = f"{booking_id} {alert.session_id or ''}".rstrip()
        found.append((document, f"{place}: {alert.kind} {verb}: {_message(alert)}"))
    return found


def _brief(changed: AttendanceDifference) -> str:
    before, after = (
        each and f"{each['status']} {each['numberOfAttendees']} at {each['updatedDate']} from {each['source']}"
        for each in (changed.before, changed.after)
    )
    return f"{before or 'none'} -> {after or 'none'}"


def _message(changed: AlertDifference) -> str:
    data = changed.after or changed.before
    return data["message"] if data else ""


def _reset(settings: Settings, begin: Bound | None, *, yes: bool, as_json: bool) -> None:
    group, topic = settings.topic_prefix, TopicNames.of(settings.topic_prefix).events
    where = "the first offset" if begin is None else f"{'the time' if begin.is_time else 'the offset'} of --from"
    confirm({"set the committed offsets of the group": group, "topic": topic, "to": f"{where}, in every partition"}, yes=yes)

    async def resetting() -> dict[str, Any]:
        async with open_operations(settings) as operations:
            running = await operations.begin(_COMMAND, topic, {"reset": True}, {})
            try:
                offsets = await ops.reset_offsets(settings, begin)
            except BaseException as error:
                await running.finish(State.FAILED, str(error))
                raise
            await running.finish()
            return {"id": running.operation.id, "offsets": {str(number): offset for number, offset in sorted(offsets.items())}}

    print_summary(asyncio.run(resetting()), as_json=as_json)


async def _plan(
    settings: Settings, selection: Selection, bounds: tuple[Bound | None, Bound | None], request: Mapping[str, Any]
) -> _Plan:
    if request["files"]:
        return _Plan(Files(settings, request["files"], selection), None, 0, request)
    window, unread = await ops.find_topic_window(settings, *bounds, selection)
    return _Plan(window, _length(window), unread, request)


def _plan_of(settings: Settings, operation: Operation, rate: float | None) -> _Plan:
    """The rest of an operation."""
    if operation.command != _COMMAND or "rate" not in operation.request:
        fail(f"{operation.id} is no replay that can be resumed: `attendance replay` begins a new one")
    request = {**operation.request, **({} if rate is None else {"rate": rate})}
    selection = Selection(*(frozenset(request[name]) for name in Selection._fields))
    if request["files"]:
        return _Plan(Files(settings, request["files"], selection), None, 0, request)
    begins = operation.position or request["start"]
    windows = {int(number): range(begins[number], end) for number, end in operation.end.items()}
    window = TopicWindow(settings, windows, selection)
    return _Plan(window, _length(window) + operation.counts.get("read", 0), 0, request)


def _length(window: TopicWindow) -> int:
    return sum(map(len, window.windows.values()))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "nothing"


def _exit_for_bad_lines(plan: _Plan, counts: Mapping[str, int]) -> None:
    """Names lines of files that are to be corrected, and exits with 1 if there are any: unlike dead letters they are news."""
    if isinstance(plan.source, Files) and (count := counts.get(BAD_LINES, 0)):
        for where, detail in plan.source.bad_lines.items():
            print_line(f"{where}: {detail}", sys.stderr)
        if more := count - len(plan.source.bad_lines):
            print_line(f"and {more:,} more lines that cannot be used", sys.stderr)
        raise typer.Exit(1)


def _bound(text: str | None, option: str) -> Bound | None:
    if text is None:
        return None
    if text.isascii() and text.isdigit():
        return Bound(int(text), is_time=False)
    try:
        return Bound(parse_time(text), is_time=True)
    except ValueError:
        _refuse(option, "write an offset, or a time as 2026-11-22T10:00:00Z")


def _id(text: str, normalised: Any, option: str) -> str:
    found: str | None = normalised(decode_argument(text))
    return found or _refuse(option, "is no id")


def _type(text: str) -> str:
    return text if text in _TYPES else _refuse("--type", f"write one of {', '.join(_TYPES)}")


def _refuse(option: str, hint: str) -> NoReturn:
    raise typer.BadParameter(hint, param_hint=option)
