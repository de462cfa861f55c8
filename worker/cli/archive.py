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
from worker.cli.long_commands import ProgressReport, Yes, abort_operation, confirm, print_summary
from worker.cli.services import service_settings
from worker.cli.show import print_line
from worker.cli.signals import run_until_stopped
from worker.ops import archive as archive_ops
from worker.ops import archive_verify
from worker.ops.archive import Bound, Compression, Plan, Result
from worker.ops.archive_format import Gap, locked
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
        bool, typer.Option("--allow-gap", help="exit with 0 although the topic lost records before they were archived")
    ] = False,
    verify: Annotated[bool, typer.Option("--verify", help="compare the archive with its manifest and the topics")] = False,
    no_topic: Annotated[bool, typer.Option("--no-topic", help="with --verify: without the topics")] = False,
    resume: Annotated[str | None, typer.Option("--resume", metavar="ID", help="go on with an interrupted archive")] = None,
    abort: Annotated[str | None, typer.Option("--abort", metavar="ID", help="give an interrupted archive up")] = None,
    yes: Yes = False,
    as_json: Annotated[bool, typer.Option("--json", help="the summary as JSON")] = False,
) -> None:
    """Write the events and bookings topics to files, from where the last archive of the folder ended."""
    if (folder is not None) + (resume is not None) + (abort is not None) != 1:
        raise typer.BadParameter("give a folder, or --resume, or --abort")
    if (verify and folder is None) or (no_topic and not verify):
        raise typer.BadParameter("--verify needs a folder, and --no-topic needs --verify")
    settings = service_settings()
    folder = folder and folder.resolve()
    if abort is not None:
        abort_operation(settings, abort, archive_ops.COMMAND, as_json=as_json)
    elif folder is not None and verify:
        _verify(settings, folder, with_topics=not no_topic, as_json=as_json)
    else:
        if folder is None:
            assert resume is not None
            folder = asyncio.run(archive_ops.plan_of(settings, resume)).folder
        with locked(folder):
            if resume is not None:
                plan = asyncio.run(archive_ops.plan_of(settings, resume))
            else:
                names = archive_ops.topic_names(settings, [kind.value for kind in topic or Kind])
                plan = asyncio.run(archive_ops.make_plan(settings, folder, names, from_, to, compress, rotate_size))
            # what is resumed was confirmed when it began
            confirm(_shown(plan), yes=yes or resume is not None)
            _write(settings, plan, resume, allow_gap=allow_gap, as_json=as_json)


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
    with ProgressReport("offsets", plan.total) as progress:
        result = run_until_stopped(lambda stop: archive_ops.write(settings, plan, progress.update, stop, resume))
    print_summary(_summary(result), as_json=as_json)
    for gap in result.gaps[:_MOST_GAPS]:
        print_line(f"{gap} were deleted from the topic before they were archived", sys.stderr)
    if result.is_stopped:
        print_line(f"paused: `attendance archive --resume {result.operation_id}` goes on", sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)
    if result.gaps and not allow_gap:
        hint = (
            "the manifest records it, the next archive does not name it again"
            if len(result.gaps) == 1
            else "the manifest records them"
        )
        print_line(f"gaps: {len(result.gaps)}; {hint}; archive more often than the topic's retention", sys.stderr)
        raise typer.Exit(1)


def _summary(result: Result) -> dict[str, Any]:
    return {
        "id": result.operation_id,
        "records": result.records,
        "files": result.files,
        "bytes": result.size,
        "gaps": [_document(gap) for gap in result.gaps],
        "state": "PAUSED" if result.is_stopped else "DONE",
    }


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
