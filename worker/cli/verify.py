"""The command `verify`."""

import asyncio
import json
import sys
from contextlib import aclosing
from typing import Annotated, Any

import typer

from schemas.times import parse_time
from worker import EXIT_INTERRUPTED
from worker.cli.long_commands import ProgressReport, Yes, abort_operation, confirm, print_summary
from worker.cli.reads import Json
from worker.cli.services import service_settings
from worker.cli.show import print_line
from worker.cli.signals import run_until_stopped
from worker.ops.partition_check import Window
from worker.ops.partition_report import PartitionReport
from worker.ops.verify import Verification
from worker.read_model.operations import Operations, Running
from worker.redis.client import Client, create_redis
from worker.settings import Settings
from worker.tasks import run_until

#: An operation counts as running while it is saved at least every 15 s.
_SAVE_SECONDS = 1.0
_COMMAND = "verify"
Found = list[tuple[PartitionReport, PartitionReport | None]]


def verify(
    from_: Annotated[
        str | None,
        typer.Option("--from", help="also fold the events from this time (RFC 3339) or offset on: none may change a row"),
    ] = None,
    partitions: Annotated[list[int] | None, typer.Option("--partition", min=0, help="only these partitions")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="have the owners repair what differs, and compare again")] = False,
    yes: Yes = False,
    resume: Annotated[str | None, typer.Option("--resume", help="go on with a --repair that was interrupted")] = None,
    abort: Annotated[str | None, typer.Option("--abort", help="end a --repair that was interrupted")] = None,
    as_json: Json = False,
) -> None:
    """Compare tables, Redis and the alerts topic, also while workers run; exit code 1 if they differ."""
    settings = service_settings()
    if abort is not None:
        abort_operation(settings, abort, _COMMAND, as_json=as_json)
        return
    _window(from_)
    for number in partitions or ():
        if number >= settings.partitions:
            raise typer.BadParameter(f"there are {settings.partitions} partitions, numbered from 0", param_hint="--partition")
    chosen = sorted(set(partitions or range(settings.partitions)))
    if repair and resume is None:
        plan = {
            "compare": f"{len(chosen)} of {settings.partitions} partitions of {settings.topic_prefix}",
            "repair": "partitions that differ are filled again by their workers; their readers get 503 meanwhile",
        }
        confirm(plan, yes=yes)
    found: Found = []
    stopped = run_until_stopped(lambda stop: _run(settings, chosen, from_, repair, resume, found, stop))
    _print(found, as_json=as_json)
    if stopped:
        print_line(stopped, sys.stderr)
        raise typer.Exit(EXIT_INTERRUPTED)
    if not all((after or before).is_equal for before, after in found):
        raise typer.Exit(1)


async def _run(
    settings: Settings,
    chosen: list[int],
    from_: str | None,
    repair: bool,
    resume: str | None,
    found: Found,
    stop: asyncio.Event,
) -> str:
    """Adds what is found; returns a line on how to go on if it was stopped."""
    client = create_redis(settings)
    try:
        running = await _operation(client, settings, chosen, from_, repair, resume)
        if running is not None:
            request, done = running.operation.request, set(running.operation.position.get("done", ()))
            chosen, from_, repair = [each for each in request["partitions"] if each not in done], request["from"], True
        with ProgressReport("records and entries") as progress:
            work = _verify(Verification(settings, client, progress.update), chosen, _window(from_), repair, running, found)
            try:
                await run_until(stop, work if running is None else running.run(work))
            except BaseException as error:
                if running is not None:
                    await running.pause(str(error))
                raise
        if stop.is_set():
            if running is None:
                return f"stopped after {len(found)} of {len(chosen)} partitions; nothing was changed: run it again"
            await running.pause()
            return f"paused after {len(found)} of {len(chosen)} partitions: attendance verify --resume {running.operation.id}"
        if running is not None:
            await running.finish()
    finally:
        await client.aclose()
    return ""


async def _operation(
    client: Client, settings: Settings, chosen: list[int], from_: str | None, repair: bool, resume: str | None
) -> Running | None:
    """The operation of a repair; comparing alone changes nothing, and is none."""
    operations = Operations(client, settings.redis_namespace)
    if resume is not None:
        return await operations.resume(resume, _COMMAND)
    if not repair:
        return None
    running = await operations.begin(
        _COMMAND, settings.topic_prefix + " read models", {"partitions": chosen, "from": from_}, {}
    )
    print_line(f"id: {running.operation.id}", sys.stderr)
    return running


async def _verify(
    verification: Verification,
    chosen: list[int],
    window: Window | None,
    repair: bool,
    running: Running | None,
    found: Found,
) -> None:
    async with aclosing(verification.run(chosen, window, repair=repair)) as reports:
        async for before, after in reports:
            found.append((before, after))
            if running is not None:
                # one that still differs is compared again by a resumed repair
                is_done = (after or before).is_equal
                done = [*running.operation.position.get("done", ()), *([before.number] if is_done else [])]
                counts = _summary(found)
                await running.save({"done": done}, {name: n for name, n in counts.items() if isinstance(n, int)})


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
