"""The commands of dead letters that are operations: export, replay, park and unpark."""

import asyncio
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from worker import EXIT_INTERRUPTED
from worker.cli.dead_letter_options import (
    From,
    Ids,
    Most,
    OfBooking,
    OfState,
    OfTopic,
    Reasons,
    Shown,
    Sources,
    To,
    confirmed,
    end_if_none,
    open_letters,
    plan_of,
    read_letters,
    selection_of,
    wanted_state,
)
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
from worker.cli.show import fail, print_line
from worker.cli.signals import run_until_stopped
from worker.kafka import open_producer
from worker.ops import dead_letter_files as files
from worker.ops import dead_letter_replay
from worker.ops.dead_letters import (
    TARGET,
    Checkpoint,
    DeadLetterError,
    DeadLetters,
    Progress,
    Selection,
    State,
    packed_selection,
    packed_windows,
    remaining_windows,
    unpacked_selection,
)
from worker.read_model.operations import Operations, Running
from worker.settings import Settings

Work = Callable[[DeadLetters, Checkpoint, Progress, asyncio.Event], Coroutine[Any, Any, bool]]


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
    selection = selection_of(settings, reasons, sources, topic, booking, from_, to, wanted_state(state))
    if resume is None and output is None:
        _export_to_stdout(settings, selection, most)
        return
    request: dict[str, Any] = {}
    if resume is None:
        assert output is not None
        path = output.absolute()
        if path.exists():
            fail(f"{path} exists: name a new file, or --resume the export that wrote it")
        windows = (
            plan_of(settings, selection, most).windows if most else read_letters(settings, lambda each: each.windows(selection))
        )
        request = {"selection": packed_selection(selection), "windows": packed_windows(windows), "file": str(path)}

    async def work(letters: DeadLetters, checkpoint: Checkpoint, progress: Progress, stop: asyncio.Event) -> bool:
        asked = checkpoint.request
        windows = remaining_windows(letters.topics.dead_letters, asked["windows"], checkpoint.position)
        selection = unpacked_selection(asked["selection"])
        with files.appending(Path(asked["file"]), checkpoint.position.get("byte", 0)) as file:
            return await files.export(letters, windows, selection, file, checkpoint, progress, stop)

    operation = _operate(settings, "dead-letters export", f"file {request.get('file')}", request, resume, work)
    _end(operation, as_json)


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
    selection = selection_of(settings, reasons, sources, topic, booking, from_, to)
    request: dict[str, Any] = {"selection": packed_selection(selection)}
    if resume is None and edit is not None:
        path = edit.absolute()
        count, lines = files.check_edited(path, most)
        end_if_none(count, as_json)
        confirm({"replay": f"{count:,} dead letters as {path} has them, those that are open"}, yes=yes)
        request |= {"edit": str(path), "sha256": files.digest_of(path), "lines": lines}
    elif resume is None:
        request["windows"] = packed_windows(confirmed(settings, selection, most, "replay", yes, as_json).windows)

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
    selection = selection_of(settings, reasons, sources, topic, booking, from_, to, State.OPEN, dead_letters)
    _park(settings, "park", selection, most, yes, resume, abort, as_json)


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
    selection = selection_of(settings, reasons, sources, topic, booking, from_, to, State.PARKED, dead_letters)
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
        plan = confirmed(settings, selection, most, name, yes, as_json)
        request = {"selection": packed_selection(selection), "windows": packed_windows(plan.windows)}

    async def work(letters: DeadLetters, checkpoint: Checkpoint, progress: Progress, stop: asyncio.Event) -> bool:
        asked = checkpoint.request
        windows = remaining_windows(letters.topics.dead_letters, asked["windows"], checkpoint.position)
        selection = unpacked_selection(asked["selection"])
        return await dead_letter_replay.park(letters, windows, selection, checkpoint, progress, stop)

    _end(_operate(settings, f"dead-letters {name}", TARGET, request, resume, work), as_json)


def _export_to_stdout(settings: Settings, selection: Selection, most: int | None) -> None:
    windows = plan_of(settings, selection, most).windows if most else None

    async def exporting(stop: asyncio.Event) -> bool:
        async with open_letters(settings) as letters:
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
        async with open_letters(settings) as letters:
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
