"""The command `rebuild`."""

import asyncio
import json
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

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
from worker.logs import configure_logs
from worker.ops import kept_namespace
from worker.ops import rebuild as ops
from worker.ops.namespace_check import CheckReport
from worker.read_model.operations import ENDED, Operation, OperationError, Operations, Running, State
from worker.redis.client import Client, create_redis
from worker.settings import Settings
from worker.tasks import run_until

T = TypeVar("T")

#: Differences that are printed; `--json` has all that are kept.
_MOST_SHOWN = 50
Archives = Annotated[
    list[Path] | None, typer.Option("--archives", metavar="DIR", help="with --refold: a folder of an archive; repeatable")
]


def rebuild(
    context: typer.Context,
    refold: Annotated[
        bool, typer.Option("--refold", help="fold topics and archives anew, into tables of its own, with the settings here")
    ] = False,
    archives: Archives = None,
    from_prefix: Annotated[
        str,
        typer.Option(
            "--from-prefix", metavar="PREFIX", help="with --refold: of the topics in use; those of the settings are new"
        ),
    ] = "",
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
    if rollback + drop_old + refold > 1:
        raise typer.BadParameter("--refold, --rollback and --drop-old are three steps: give one of them")
    if archives and not refold:
        raise typer.BadParameter("--archives needs --refold: tables have no archives")
    if from_prefix and not refold:
        raise typer.BadParameter("--from-prefix needs --refold: new topics have tables of their own")
    settings = service_settings()
    operation = None if resume is None else get_operation(settings, resume)
    if operation is not None and operation.state in ENDED:
        raise OperationError(f"{operation.id} is {operation.state}: there is nothing to resume")
    if abort is not None:
        _abort(settings, abort, as_json=as_json)
    elif rollback or (operation is not None and "rollback" in operation.request):
        _roll_back(settings, operation, max_lag, yes=yes, as_json=as_json)
    elif drop_old or (operation is not None and "drop" in operation.request):
        _drop_old(settings, operation, yes=yes, as_json=as_json)
    else:
        if operation is None:
            folders = [each.resolve() for each in archives or ()]
            plan = asyncio.run(
                _with_redis(
                    settings,
                    lambda client: ops.make_plan(settings, client, folders, refold=refold, from_prefix=from_prefix),
                )
            )
            confirm(_shown(settings, plan, folders, max_lag), yes=yes)
            request = {"maxLag": max_lag, "sample": sample, "archives": list(map(str, folders))}
            if plan.coverage is not None:
                request |= {"records": plan.coverage.total, "archived": plan.coverage.archived}
        elif "mode" not in operation.request:
            fail(f"{operation.id} is no rebuild that can be resumed")
        else:
            plan, request = None, {}
        _rebuild(settings, operation, plan, request, Switching(yes=yes, accept=accept, no_switch=no_switch), as_json=as_json)


def _shown(settings: Settings, plan: ops.Plan, archives: list[Path], max_lag: int) -> dict[str, Any]:
    partitions = settings.partitions if plan.mode is ops.Mode.NEW_TOPICS else plan.live.partitions
    shown: dict[str, Any] = {"fill": f"a new namespace of {partitions} partitions, beside {plan.live.name}"}
    if plan.mode is ops.Mode.IN_PLACE:
        shown["from"] = f"the tables of the group {settings.group}, by its workers, which write both from then on"
    elif plan.mode is ops.Mode.COPY:
        shown["from"] = f"new tables, copied from those of {plan.live.name}, whose layout is of another version"
    elif plan.mode is ops.Mode.NEW_TOPICS:
        topics = f"new topics {settings.topic_prefix}.*, to which {plan.live.topic_prefix}.* are copied, and back"
        shown["from"] = topics + "".join(f", {folder}" for folder in archives)
    else:
        shown["from"] = "new tables, folded from the topics" + "".join(f", {folder}" for folder in archives)
    if plan.coverage is not None:
        shown["records"] = f"{plan.coverage.total:,} offsets, {plan.coverage.archived:,} of them from archives"
        shown["settings"] = ", ".join(f"{name} {value}" for name, value in settings.shaping().items())
    if plan.attendances:
        shown["attendances"] = f"{plan.attendances:,} in {plan.live.name}"
    shown["memory"] = "Redis holds the read models twice until one of them is dropped"
    shown["then"] = f"compare them, and switch readers once the lag is at most {max_lag:,} records"
    return shown


class Switching:
    """Shows how far a rebuild is, and decides whether it switches.

    Args:
        yes: do not ask.
        accept: how many differences are accepted.
        no_switch: end before the switch.
    """

    def __init__(self, *, yes: bool, accept: int | None, no_switch: bool) -> None:
        self.no_switch = no_switch
        self.found: CheckReport | None = None
        self.accepted = accept or 0
        self._yes = yes
        self.stop = asyncio.Event()

    @contextmanager
    def progress(self, unit: str, total: int | None) -> Iterator[Callable[[int], None]]:
        with ProgressReport(unit, total) as progress:
            yield progress.update

    def report(self, line: str) -> None:
        print_line(line, sys.stderr)

    def checked(self, report: CheckReport) -> None:
        self.found = report
        compared = ", ".join(f"{count:,} {name}" for name, count in report.compared.items())
        print_line(f"compared {compared}: {report.difference_count:,} differences", sys.stderr)
        for each in report.differences[:_MOST_SHOWN]:
            print_line(f"{each.kind} {each.id}: {json.dumps(each.live)} -> {json.dumps(each.build)}", sys.stderr)

    async def may_switch(self, name: str, differences: int) -> bool:
        if self.no_switch:
            return False
        if differences > self.accepted:
            print_line(f"--accept {differences} switches to it all the same; --abort removes it", sys.stderr)
            return False
        return self._yes or bool(await run_until(self.stop, _ask(f"switch readers to {name}?")))


async def _ask(question: str) -> bool:
    """Asks on the terminal; a thread that Ctrl-C leaves behind does not hold the process."""
    loop, answered = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def answer(text: bool) -> None:
        if not answered.done():
            answered.set_result(text)

    def ask() -> None:
        try:
            is_yes = typer.confirm(question, err=True)
        except typer.Abort:
            is_yes = False
        loop.call_soon_threadsafe(answer, is_yes)

    threading.Thread(target=ask, daemon=True).start()
    return bool(await answered)


def _rebuild(
    settings: Settings,
    resumed: Operation | None,
    plan: ops.Plan | None,
    request: dict[str, Any],
    shown: Switching,
    *,
    as_json: bool,
) -> None:
    async def begin(operations: Operations) -> Running:
        assert plan is not None
        return await ops.begin(operations, settings, plan, request)

    # loading tables is a worker's job, with its log lines
    configure_logs(settings)

    async def work(running: Running, stop: asyncio.Event) -> bool | State:
        shown.stop = stop
        return await _with_redis(settings, lambda client: ops.Rebuild(settings, client, running, shown).run(stop))

    ended = run_operation(settings, ops.COMMAND, None if resumed is None else resumed.id, begin, work)
    operation = ended.operation
    more: dict[str, Any] = {} if shown.found is None else {"check": shown.found.document()}
    if ended.is_done and operation.state is State.SWITCHED:
        live, kept = operation.position["namespace"], operation.request["from"]
        print_operation(operation, as_json=as_json, live=live, kept=kept, **more)
        print_line(f"{live} is live; {kept} is kept: --rollback goes back to it, --drop-old removes it", sys.stderr)
        return
    print_operation(operation, as_json=as_json, **more)
    if not ended.is_done:
        raise typer.Exit(EXIT_INTERRUPTED)
    _exit_when_ready(operation, shown)


def _exit_when_ready(operation: Operation, shown: Switching) -> None:
    """Exits with 0 only if it was asked to end before the switch, and nothing differs that was not accepted."""
    print_line(
        f"{operation.id} is ready: `attendance rebuild --resume {operation.id}` compares it again and switches", sys.stderr
    )
    is_accepted = shown.found is not None and shown.found.difference_count <= shown.accepted
    raise typer.Exit(0 if shown.no_switch and is_accepted else 1)


def _abort(settings: Settings, operation_id: str, *, as_json: bool) -> None:
    operation = get_operation(settings, operation_id)
    if operation.state is State.SWITCHED:
        fail(f"{operation_id} is SWITCHED: --rollback makes the earlier namespace live again, --drop-old then removes this one")

    async def work(running: Running, _: asyncio.Event) -> State:
        if "mode" not in running.operation.request:
            return State.ABORTED
        shown = Switching(yes=True, accept=0, no_switch=True)
        return await _with_redis(settings, lambda client: ops.Rebuild(settings, client, running, shown).remove())

    operation = run_operation(settings, ops.COMMAND, operation_id, _none_begins, work).operation
    print_operation(operation, as_json=as_json)
    if operation.state is State.SWITCHED:
        fail(
            f"{operation_id} had switched: --rollback makes the earlier namespace live again, --drop-old then removes this one"
        )


def _roll_back(settings: Settings, resumed: Operation | None, max_lag: int, *, yes: bool, as_json: bool) -> None:
    if resumed is None:
        live, kept = asyncio.run(_with_redis(settings, lambda client: kept_namespace.find_kept(settings, client)))
        request = {"rollback": kept.namespace.name, "from": live.name}
        confirm({"switch readers from": live.name, "back to": kept.namespace.name}, yes=yes)
    else:
        request = dict(resumed.request)

    async def begin(operations: Operations) -> Running:
        return await operations.begin(ops.COMMAND, ops.target(settings), request, {})

    async def work(running: Running, _: asyncio.Event) -> State:
        shown = Switching(yes=True, accept=0, no_switch=True)
        return await _with_redis(settings, lambda client: kept_namespace.roll_back(settings, client, running, shown, max_lag))

    ended = run_operation(settings, ops.COMMAND, None if resumed is None else resumed.id, begin, work)
    print_operation(ended.operation, as_json=as_json, live=request["rollback"], kept=request["from"])
    _exit_if_interrupted(ended)


def _drop_old(settings: Settings, resumed: Operation | None, *, yes: bool, as_json: bool) -> None:
    if resumed is None:
        live, kept = asyncio.run(_with_redis(settings, lambda client: kept_namespace.find_kept(settings, client)))
        name, partitions, tables, topic_prefix = kept.namespace
        request = {"drop": name, "partitions": partitions, "tables": tables, "operation": kept.operation}
        request["topicPrefix"] = topic_prefix
        shown = {"remove": f"{name}; then there is no way back from {live.name}"}
        if not live.has_prefix(topic_prefix):
            shown["topics"] = f"what is still published to {topic_prefix}.* counts no more"
        confirm(shown, yes=yes)
    else:
        request = dict(resumed.request)

    async def begin(operations: Operations) -> Running:
        return await operations.begin(ops.COMMAND, ops.target(settings), request, {})

    async def work(running: Running, _: asyncio.Event) -> State:
        shown = Switching(yes=True, accept=0, no_switch=True)
        return await _with_redis(settings, lambda client: kept_namespace.drop_kept(settings, client, running, shown))

    ended = run_operation(settings, ops.COMMAND, None if resumed is None else resumed.id, begin, work)
    print_operation(ended.operation, as_json=as_json, removed=request["drop"])
    _exit_if_interrupted(ended)


def _exit_if_interrupted(ended: Ended) -> None:
    if not ended.is_done:
        raise typer.Exit(EXIT_INTERRUPTED)


async def _with_redis(settings: Settings, ask: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
    client = create_redis(settings)
    try:
        return await ask(client)
    finally:
        await client.aclose()


async def _none_begins(_: Operations) -> Running:
    raise AssertionError("an operation is resumed")
