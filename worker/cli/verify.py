"""The command `verify`."""

import asyncio
import json
import sys
from contextlib import aclosing
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
    print_summary,
    run_operation,
)
from worker.cli.reads import Json
from worker.cli.services import service_settings
from worker.cli.show import print_line
from worker.cli.signals import run_until_stopped
from worker.ops.partition_check import Window
from worker.ops.partition_report import PartitionReport
from worker.ops.verify import Verification
from worker.read_model.operations import Operations, Running
from worker.redis.client import create_redis
from worker.settings import Settings
from worker.tasks import run_until

_COMMAND = "verify"
Found = list[tuple[PartitionReport, PartitionReport | None]]


def verify(
    context: typer.Context,
    from_: Annotated[
        str | None,
        typer.Option("--from", help="also fold the events from this time (RFC 3339) or offset on: none may change a row"),
    ] = None,
    partitions: Annotated[list[int] | None, typer.Option("--partition", min=0, help="only these partitions")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="have the owners repair what differs, and compare again")] = False,
    yes: Yes = False,
    resume: Resume = None,
    abort: Abort = None,
    as_json: Json = False,
) -> None:
    """Compare tables, Redis and the alerts topic, also while workers run; exit code 1 if they differ."""
    check_alone(context)
    window = _window(from_)
    settings = service_settings()
    if abort is not None:
        abort_operation(settings, abort, _COMMAND, as_json=as_json)
        return
    for number in partitions or ():
        if number >= settings.partitions:
            raise typer.BadParameter(f"there are {settings.partitions} partitions, numbered from 0", param_hint="--partition")
    chosen = sorted(set(partitions or range(settings.partitions)))
    found: Found = []
    if resume is None and not repair:
        is_done = run_until_stopped(lambda stop: run_until(stop, _verify(settings, chosen, window, None, found)))
        if not is_done:
            print_line(f"stopped after {len(found)} of {len(chosen)} partitions; nothing was changed: run it again", sys.stderr)
    else:
        if resume is None:
            plan = {
                "compare": f"{len(chosen)} of {settings.partitions} partitions of {settings.topic_prefix}",
                "repair": "partitions that differ are filled again by their workers; their readers get 503 meanwhile",
            }
            confirm(plan, yes=yes)
        is_done = _repair(settings, {"partitions": chosen, "from": from_}, resume, found)
    _print(found, as_json=as_json)
    if not is_done:
        raise typer.Exit(EXIT_INTERRUPTED)
    if not all((after or before).is_equal for before, after in found):
        raise typer.Exit(1)


def _repair(settings: Settings, request: dict[str, Any], resume: str | None, found: Found) -> bool:
    """Compares and repairs as an operation; returns whether it has come to the end."""

    async def begin(operations: Operations) -> Running:
        target = f"{settings.redis_namespace} read models"
        return await operations.begin(_COMMAND, target, request, {"done": request["partitions"]})

    async def work(running: Running, stop: asyncio.Event) -> bool:
        asked, done = running.operation.request, set(running.operation.position.get("done", ()))
        chosen = [each for each in asked["partitions"] if each not in done]
        return bool(await run_until(stop, _verify(settings, chosen, _window(asked["from"]), running, found)))

    return run_operation(settings, _COMMAND, resume, begin, work).is_done


async def _verify(settings: Settings, chosen: list[int], window: Window | None, running: Running | None, found: Found) -> bool:
    """Adds what is found of each partition, and repairs what differs if it is an operation."""
    client = create_redis(settings)
    try:
        with ProgressReport("records and entries") as progress:
            reading = Verification(settings, client, progress.update).run(chosen, window, repair=running is not None)
            async with aclosing(reading) as reports:
                async for before, after in reports:
                    found.append((before, after))
                    if running is not None:
                        # one that still differs is compared again by a resumed repair
                        is_done = (after or before).is_equal
                        done = [*running.operation.position.get("done", ()), *([before.number] if is_done else [])]
                        counts = _summary(found)
                        await running.save({"done": done}, {name: n for name, n in counts.items() if isinstance(n, int)})
    finally:
        await client.aclose()
    return True


def _window(begin: str | None) -> Window | None:
    if begin is None:
        return None
    if begin.isdecimal():
        return Window(int(begin), by_time=False)
    try:
        return Window(parse_time(begin), by_time=True)
    except ValueError:
        raise typer.BadParameter("give an offset, or a time as 2026-11-22T10:00:00Z", param_hint="--from") from None


def _summary(found: Found) -> dict[str, Any]:
    last = [after or before for before, after in found]
    return {
        "partitions": len(found),
        "compared": sum(each.compared for each in last),
        "events": sum(each.events for each, _ in found),
        "differences": sum(len(before.differences) for before, _ in found),
        "remaining": sum(len(each.differences) for each in last),
        "unreached": sum(bool(each.unreached) for each in last),
    }


def _print(found: Found, *, as_json: bool) -> None:
    differences = [difference for before, _ in found for difference in before.differences]
    unreached = {each.number: each.unreached for before, after in found for each in [after or before] if each.unreached}
    if as_json:
        shown = {
            "differences": [each._asdict() for each in differences],
            "remaining": [each._asdict() for _, after in found for each in (after.differences if after else ())],
            "unreached": unreached,
        }
        print_summary({"summary": _summary(found)} | shown, as_json=True)
        return
    for each in differences:
        values = f"expected {json.dumps(each.expected)}, found {json.dumps(each.found)}"
        print_line(f"partition {each.partition}, {each.key}, {each.member or 'whole key'}: {each.problem}; {values}")
    for number, reason in unreached.items():
        print_line(f"partition {number} was not compared: {reason}", sys.stderr)
    print_summary(_summary(found), as_json=False)
