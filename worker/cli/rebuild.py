"""The command `rebuild`."""

import asyncio
import json
import sys
from typing import Annotated, Any

import typer

from worker import EXIT_INTERRUPTED
from worker.cli.long_commands import (
    Abort,
    Ended,
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
from worker.ops import rebuild as ops
from worker.ops.namespace_check import CheckReport
from worker.read_model.operations import ENDED, OperationError, Operations, Running, State
from worker.redis.client import create_redis
from worker.settings import Settings

#: Differences that are printed; `--json` has all that are kept.
_MOST_SHOWN = 50


def rebuild(
    context: typer.Context,
    max_lag: Annotated[
        int, typer.Option("--max-lag", min=0, metavar="RECORDS", help="how far the build may be behind the topics")
    ] = ops.MOST_LAG,
    sample: Annotated[int, typer.Option(min=0, help="attendances that are compared one by one")] = ops.SAMPLE,
    accept: Annotated[
        int | None, typer.Option(min=0, help="switch although the build differs in so many places; also with --resume")
    ] = None,
    no_switch: Annotated[bool, typer.Option("--no-switch", help="end when the build is ready; also with --resume")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="make the namespace live again that was live before")] = False,
    drop_old: Annotated[bool, typer.Option("--drop-old", help="remove the namespace that was live before")] = False,
    resume: Resume = None,
    abort: Abort = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Fill new read models beside the live ones, compare them, and switch readers to them."""
    check_alone(context, "accept", "no_switch")
    if rollback and drop_old:
        raise typer.BadParameter("--rollback and --drop-old are two steps: the first makes the other one the old one")
    settings = service_settings()
    if abort is not None:
        _abort(settings, abort, as_json=as_json)
    elif rollback:
        _roll_back(settings, max_lag, yes=yes, as_json=as_json)
    elif drop_old:
        _drop_old(settings, yes=yes, as_json=as_json)
    elif resume is not None and (name := get_operation(settings, resume).request.get("drop")) is not None:
        _drop(settings, resume, name, as_json=as_json)
    else:
        _rebuild(settings, resume, max_lag, sample, accept or 0, no_switch=no_switch, yes=yes, as_json=as_json)


def _rebuild(
    settings: Settings,
    resume: str | None,
    max_lag: int,
    sample: int,
    accept: int,
    *,
    no_switch: bool,
    yes: bool,
    as_json: bool,
) -> None:
    if resume is None:
        plan = asyncio.run(_with_redis(settings, lambda client: ops.make_plan(settings, client)))
        confirm(
            {
                "fill": f"a new namespace of {plan.live.partitions} partitions, beside {plan.live.name}",
                "from": f"the tables of the group {settings.group}, by its workers, which write both from then on",
                "attendances": f"{plan.attendances:,}",
                "memory": "Redis holds the read models twice until one of them is dropped",
                "then": f"compare them, and switch readers once the lag is at most {max_lag:,} records",
            },
            yes=yes,
        )
        total: int | None = plan.attendances
    else:
        operation = get_operation(settings, resume)
        if operation.state in ENDED:
            raise OperationError(f"{resume} is {operation.state}: there is nothing to resume")
        if "maxLag" not in operation.request:
            fail(f"{resume} is no rebuild that can be resumed: run `attendance rebuild` with its option again")
        total = operation.request["attendances"]

    async def begin(operations: Operations) -> Running:
        return await ops.begin(operations, settings, plan, {"maxLag": max_lag, "sample": sample})

    found: list[CheckReport] = []

    async def work(running: Running, stop: asyncio.Event) -> bool | State:
        client = create_redis(settings)
        try:
            building = ops.Rebuild(settings, client, running)
            with ProgressReport("attendances", total) as progress:
                if not await building.fill(stop, progress.update, _print_error):
                    return False
            with ProgressReport("places compared") as progress:
                report = await building.check(stop, progress.update)
            if stop.is_set():
                return False
            found.append(report)
            return State.READY
        finally:
            await client.aclose()

    ended = run_operation(settings, ops.COMMAND, resume, begin, work)
    if not ended.is_done:
        print_operation(ended.operation, as_json=as_json)
        raise typer.Exit(EXIT_INTERRUPTED)
    _print_check(found[0])
    if no_switch or not (found[0].difference_count <= accept and _may_switch(ended, yes=yes)):
        print_operation(ended.operation, as_json=as_json, check=found[0].document())
        if found[0].difference_count > accept:
            print_line(
                f"--resume {ended.operation.id} --accept {found[0].difference_count} switches, --abort removes it", sys.stderr
            )
        raise typer.Exit(0 if no_switch and found[0].difference_count <= accept else 1)
    _switch(settings, ended.operation.id, accept, found[0], as_json=as_json)


def _switch(settings: Settings, operation_id: str, accept: int, report: CheckReport, *, as_json: bool) -> None:
    async def work(running: Running, _: asyncio.Event) -> State:
        client = create_redis(settings)
        try:
            return await ops.Rebuild(settings, client, running).switch(accept)
        finally:
            await client.aclose()

    operation = run_operation(settings, ops.COMMAND, operation_id, _none_begins, work).operation
    live, kept = operation.position["namespace"], operation.request["from"]
    print_operation(operation, as_json=as_json, live=live, kept=kept, check=report.document())
    print_line(
        f"{live} is live; {kept} is written until `attendance rebuild --drop-old`, --rollback goes back to it", sys.stderr
    )


def _may_switch(ended: Ended, *, yes: bool) -> bool:
    """Asks whether to switch."""
    name = ended.operation.position["namespace"]
    return yes or typer.confirm(f"switch readers to {name}?", err=True)


def _print_check(report: CheckReport) -> None:
    compared = ", ".join(f"{count:,} {name}" for name, count in report.compared.items())
    print_line(f"compared {compared}: {report.difference_count:,} differences", sys.stderr)
    for each in report.differences[:_MOST_SHOWN]:
        print_line(f"{each.kind} {each.id}: {json.dumps(each.live)} -> {json.dumps(each.build)}", sys.stderr)


def _abort(settings: Settings, operation_id: str, *, as_json: bool) -> None:
    async def work(running: Running, _: asyncio.Event) -> State:
        client = create_redis(settings)
        try:
            return await ops.Rebuild(settings, client, running).remove()
        finally:
            await client.aclose()

    print_operation(run_operation(settings, ops.COMMAND, operation_id, _none_begins, work).operation, as_json=as_json)


def _roll_back(settings: Settings, max_lag: int, *, yes: bool, as_json: bool) -> None:
    live, kept = asyncio.run(_with_redis(settings, lambda client: ops.make_rollback_plan(settings, client)))
    confirm({"switch readers from": live.name, "back to": kept.namespace.name}, yes=yes)

    async def begin(operations: Operations) -> Running:
        request = {"rollback": kept.namespace.name, "from": live.name}
        return await operations.begin(ops.COMMAND, ops.target(settings), request, {})

    async def work(_: Running, __: asyncio.Event) -> State:
        await _with_redis(settings, lambda client: ops.roll_back(settings, client, max_lag))
        return State.SWITCHED

    operation = run_operation(settings, ops.COMMAND, None, begin, work).operation
    print_operation(operation, as_json=as_json, live=kept.namespace.name, kept=live.name)


def _drop_old(settings: Settings, *, yes: bool, as_json: bool) -> None:
    live, kept = asyncio.run(_with_redis(settings, lambda client: ops.make_rollback_plan(settings, client)))
    name = kept.namespace.name
    confirm({"remove": f"{name}; then there is no way back from {live.name}"}, yes=yes)
    _drop(settings, None, name, as_json=as_json)


def _drop(settings: Settings, resume: str | None, name: str, *, as_json: bool) -> None:
    async def begin(operations: Operations) -> Running:
        return await operations.begin(ops.COMMAND, ops.target(settings), {"drop": name}, {})

    async def work(_: Running, __: asyncio.Event) -> State:
        await _with_redis(settings, lambda client: ops.drop_kept(settings, client, name))
        return State.DONE

    ended = run_operation(settings, ops.COMMAND, resume, begin, work)
    print_operation(ended.operation, as_json=as_json, removed=name)


async def _with_redis(settings: Settings, ask: Any) -> Any:
    client = create_redis(settings)
    try:
        return await ask(client)
    finally:
        await client.aclose()


async def _none_begins(_: Operations) -> Running:
    raise AssertionError("an operation is resumed")


def _print_error(line: str) -> None:
    print_line(line, sys.stderr)
