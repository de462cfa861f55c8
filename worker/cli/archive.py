"""The command `archive`."""

import asyncio
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.times import parse_time
from worker import EXIT_INTERRUPTED
from worker.cli.long_commands import (
    Abort,
    ProgressReport,
    Resume,
    Yes,
    abort_operation,
    check_alone,
    confirm,
    get_operation,
    print_operation,
    print_summary,
    run_operation,
)
from worker.cli.services import service_settings
from worker.cli.show import print_line
from worker.cli.signals import run_until_stopped
from worker.ops import archive as archive_ops
from worker.ops import archive_plan, archive_verify
from worker.ops.archive_format import Gap, locked
from worker.ops.archive_plan import Bound, Compression, Plan
from worker.read_model.operations import Operations, Running
from worker.settings import Settings

_UNITS = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_SIZE = re.compile(r"([0-9]+) ?(KiB|MiB|GiB|)").fullmatch
_LEAST_ROTATE_BYTES = 64 * 1024
#: Gaps that are named; all are counted and in the manifest.
_MOST_GAPS = 20


class Kind(StrEnum):
    """Topics that are archived."""

    EVENTS = "events"
    BOOKINGS = "bookings"


def _bound(text: str) -> Bound:
    if text.isascii() and text.isdigit():
        return Bound(int(text), is_time=False)
    try:
        return Bound(parse_time(text), is_time=True)
    except ValueError:
        raise typer.BadParameter("neither an offset nor an RFC 3339 time as in 2026-11-22T10:00:00Z") from None


def _size(text: str) -> int:
    parts = _SIZE(text)
    if parts is None or (size := int(parts[1]) * _UNITS[parts[2]]) < _LEAST_ROTATE_BYTES:
        raise typer.BadParameter("not a size of at least 64KiB, as in 256MiB or 1GiB")
    return size


def archive(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Argument(help="folder of the archive")] = None,
    topic: Annotated[list[Kind] | None, typer.Option("--topic", help="only this topic; repeatable")] = None,
    from_: Annotated[
        Bound | None,
        typer.Option("--from", parser=_bound, metavar="TIME|OFFSET", help="begin here, not where the archive ends"),
    ] = None,
    to: Annotated[
        Bound | None, typer.Option("--to", parser=_bound, metavar="TIME|OFFSET", help="end before this, not at the end of now")
    ] = None,
    compress: Annotated[Compression, typer.Option("--compress", help="of new files")] = Compression.ZSTD,
    rotate_size: Annotated[
        int, typer.Option("--rotate-size", parser=_size, metavar="SIZE", help="begin another file after this size on disk")
    ] = "256MiB",  # type: ignore[assignment] # what the parser takes
    allow_gap: Annotated[
        bool,
        typer.Option("--allow-gap", help="exit with 0 although the topic lost records; also with --resume"),
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="compare the archive with its manifest and the topics")] = False,
    no_topic: Annotated[bool, typer.Option("--no-topic", help="with --verify: without the topics")] = False,
    resume: Resume = None,
    abort: Abort = None,
    yes: Yes = False,
    as_json: Annotated[bool, typer.Option("--json", help="the summary as JSON")] = False,
) -> None:
    """Write the events and bookings topics to files, from where the last archive of the folder ended."""
    check_alone(context, "allow_gap")
    if folder is None and resume is None and abort is None:
        raise typer.BadParameter("give a folder, or --resume, or --abort")
    if no_topic and not verify:
        raise typer.BadParameter("--no-topic needs --verify")
    settings = service_settings()
    if abort is not None:
        abort_operation(settings, abort, archive_plan.COMMAND, as_json=as_json)
    elif resume is not None:
        operation = get_operation(settings, resume)
        with locked(archive_plan.plan_of(operation).folder):
            # once more: another process may have written to the folder before it was locked
            plan = archive_plan.plan_of(operation)
            confirm(_shown(plan), yes=True)
            _write(settings, plan, resume, allow_gap=allow_gap, as_json=as_json)
    elif folder is not None and verify:
        _verify(settings, folder.resolve(), with_topics=not no_topic, as_json=as_json)
    elif folder is not None:
        names = archive_plan.topic_names(settings, [kind.value for kind in topic or Kind])
        with locked(folder.resolve()):
            making = archive_plan.make_plan(settings, folder.resolve(), names, from_, to, compress, rotate_size)
            plan = asyncio.run(making)
            confirm(_shown(plan), yes=yes)
            _write(settings, plan, None, allow_gap=allow_gap, as_json=as_json)


def _shown(plan: Plan) -> dict[str, Any]:
    shown: dict[str, Any] = {"folder": plan.folder}
    for topic in sorted({tp.topic for tp in plan.windows}):
        parts = {tp.partition: parts for tp, parts in plan.missing.items() if tp.topic == topic}
        offsets = sum(len(part) for each in parts.values() for part in each)
        shown[topic] = f"{offsets:,} offsets of {len(parts)} partitions that are not archived yet"
    shown["files"] = f"{plan.compression.value}, another one after {plan.rotate_bytes:,} bytes"
    if plan.gaps:
        shown["lost before they were archived"] = "; ".join(map(str, plan.gaps[:_MOST_GAPS]))
    return shown


def _write(settings: Settings, plan: Plan, resume: str | None, *, allow_gap: bool, as_json: bool) -> None:
    async def begin(operations: Operations) -> Running:
        return await archive_ops.begin(operations, plan)

    async def work(running: Running, stop: asyncio.Event) -> bool:
        with ProgressReport("offsets", plan.total) as progress:
            return await archive_ops.write(settings, plan, running, progress.update, stop)

    operation, is_done = run_operation(settings, archive_plan.COMMAND, resume, begin, work)
    gaps = archive_plan.gaps_of(plan)
    print_operation(operation, as_json=as_json, gaps=[_document(gap) for gap in gaps])
    for gap in gaps[:_MOST_GAPS]:
        print_line(f"{gap} were deleted from the topic before they were archived", sys.stderr)
    if not is_done:
        raise typer.Exit(EXIT_INTERRUPTED)
    if gaps and not allow_gap:
        hint = (
            "the manifest records it, the next archive does not name it again"
            if len(gaps) == 1
            else "the manifest records them"
        )
        print_line(f"gaps: {len(gaps)}; {hint}; archive more often than the topic's retention", sys.stderr)
        raise typer.Exit(1)


def _document(gap: Gap) -> dict[str, Any]:
    return {"topic": gap.topic, "partition": gap.partition, "begin": gap.begin, "end": gap.end}


def _verify(settings: Settings, folder: Path, *, with_topics: bool, as_json: bool) -> None:
    with ProgressReport("records") as progress:
        verified = run_until_stopped(
            lambda stop: archive_verify.verify(settings, folder, progress.update, stop, with_topics=with_topics)
        )
    summary: dict[str, Any] = {
        "files": verified.files,
        "records": verified.records,
        "comparedWithTopic": verified.compared,
        "gaps": [_document(gap) for gap in verified.gaps],
        "problems": verified.problem_count,
    }
    print_summary(summary | ({"details": verified.problems} if as_json else {}), as_json=as_json)
    if not as_json:
        for problem in verified.problems:
            print_line(problem, sys.stderr)
    if verified.is_stopped:
        print_line("interrupted: not all was verified", sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)
    if verified.problem_count:
        raise typer.Exit(1)
