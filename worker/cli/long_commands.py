"""What commands that take long share: the plan that is confirmed, the operation, progress, and the summary."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from time import monotonic
from types import TracebackType
from typing import Annotated, Any, NamedTuple, Self, TextIO

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from worker.cli.show import fail, print_line
from worker.cli.signals import run_until_stopped
from worker.read_model.operations import Operation, OperationError, Operations, Running, State
from worker.redis.client import create_redis
from worker.settings import Settings

Yes = Annotated[bool, typer.Option("--yes", help="do not ask")]
Resume = Annotated[
    str | None,
    typer.Option("--resume", metavar="ID", help="go on with one that was interrupted, as it was begun; it does not ask again"),
]
Abort = Annotated[str | None, typer.Option("--abort", metavar="ID", help="end one that was interrupted for good")]
Begin = Callable[[Operations], Awaitable[Running]]
Work = Callable[[Running, asyncio.Event], Coroutine[Any, Any, bool | State]]
"""What an operation does, until it is done (True, or the state that it is left in) or the event is set."""

#: Where stderr is no terminal, a line of progress is printed after so long, seconds.
LINE_SECONDS = 10.0


def confirm(plan: Mapping[str, Any], *, yes: bool) -> None:
    """Prints to stderr what a command will do, and asks. Exits with 1 if the answer is no, or there is nobody to ask."""
    for name, value in plan.items():
        print_line(f"{name}: {value}", sys.stderr)
    if yes:
        return
    if not sys.stdin.isatty():
        fail("nothing was done: there is no terminal to ask on; --yes does without")
    if not typer.confirm("continue?", err=True):
        fail("nothing was done")


def check_alone(context: typer.Context, *with_resume: str) -> None:
    """Refuses, with exit code 2, what is given beside ``--resume`` or ``--abort``: an operation keeps what it was begun with.

    Args:
        context: of the command; its parameters ``yes`` and ``as_json`` are allowed.
        with_resume: parameters that go with ``--resume`` too: they concern how this process runs, not what is done.
    """
    given = {each.name: each for each in context.command.params if _is_given(context, each.name or "")}
    for name, allowed in (("resume", with_resume), ("abort", ())):
        refused = [each for each in given.values() if each.name not in (name, "yes", "as_json", *allowed)]
        if name in given and refused:
            # an argument has its name in capitals
            what = refused[0].opts[0] if refused[0].param_type_name == "option" else str(refused[0].name).upper()
            raise typer.BadParameter(f"{what} does not go with --{name}: the operation keeps what it was begun with")


def _is_given(context: typer.Context, name: str) -> bool:
    # an argument that may be repeated counts as given also where it is not
    is_empty = context.params.get(name) in (None, [], ())
    source = context.get_parameter_source(name)
    return not is_empty and source is not None and source.name == "COMMANDLINE"


def print_summary(summary: Mapping[str, Any], *, as_json: bool, file: TextIO | None = None) -> None:
    """Prints what a command did: one JSON document, or a line for each value; to stdout, unless a file is given."""
    if as_json:
        print(json.dumps(summary), file=file)
        return
    for name, value in summary.items():
        print_line(f"{name}: {value}", file)


class Ended(NamedTuple):
    """What became of an operation in this process."""

    operation: Operation
    is_done: bool
    """False: it was interrupted, and can be resumed."""


@asynccontextmanager
async def open_operations(settings: Settings) -> AsyncIterator[Operations]:
    """The operations of the namespace."""
    client = create_redis(settings)
    try:
        yield Operations(client, settings.redis_namespace)
    finally:
        await client.aclose()


def run_operation(settings: Settings, command: str, resume: str | None, begin: Begin, work: Work) -> Ended:
    """Begins an operation, or goes on with one, until its work is done, or Ctrl-C. Prints to stderr its id, and how to go on.

    Raises:
        OperationError: it cannot begin, or be resumed, or another process has resumed it.
    """

    async def operating(stop: asyncio.Event) -> Ended:
        async with open_operations(settings) as operations:
            running = await (begin(operations) if resume is None else operations.resume(resume, command))
            print_line(f"operation {running.operation.id}", sys.stderr)
            try:
                is_done = await running.run_until(stop, work(running, stop))
            except OperationError:
                raise  # it is another process' now
            except Exception:
                _print_resume(running.operation)
                raise
            if not is_done:
                _print_resume(running.operation)
            return Ended(running.operation, is_done)

    return run_until_stopped(operating)


def _print_resume(operation: Operation) -> None:
    name = operation.id
    how = f"`attendance {operation.command} --resume {name}` goes on"
    if operation.state is State.PAUSED:
        print_line(f"{name} is paused: {how}", sys.stderr)
    else:
        print_line(f"{name} is interrupted: {how} once Redis answers", sys.stderr)


def get_operation(settings: Settings, operation_id: str) -> Operation:
    """An operation by its id.

    Raises:
        OperationError: there is none.
    """

    async def reading() -> Operation:
        async with open_operations(settings) as operations:
            return await operations.get(operation_id)

    return asyncio.run(reading())


def abort_operation(settings: Settings, operation_id: str, command: str, *, as_json: bool) -> None:
    """Ends an interrupted operation of a command for good, and prints what it had done.

    Raises:
        OperationError: there is none, it is of another command, has ended, or still runs.
    """

    async def aborting() -> Operation:
        async with open_operations(settings) as operations:
            return await operations.abort(operation_id, command)

    print_operation(asyncio.run(aborting()), as_json=as_json)


def print_operation(operation: Operation, *, as_json: bool, file: TextIO | None = None, **more: Any) -> None:
    """Prints what became of an operation: its id, its state, and what it has done; to stdout, unless a file is given."""
    summary = {"id": operation.id, "state": operation.state.value, **operation.counts, **more}
    print_summary(summary, as_json=as_json, file=file)


class ProgressReport:
    """How far a command is, with rate and time left: a bar on a terminal, elsewhere a line every `LINE_SECONDS`.

    Args:
        unit: what is counted, in the plural.
        total: how many there are; None if that is unknown.
    """

    def __init__(self, unit: str, total: int | None = None) -> None:
        self._unit = unit
        self._total = total
        self._console = Console(stderr=True, markup=False, highlight=False)
        self._began = self._last_line = monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
            self._task = self._bar.add_task(self._unit, total=self._total, rate="")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._task is not None:
            self._bar.stop()

    def update(self, done: int) -> None:
        """Says how many are done."""
        now = monotonic()
        rate = done / max(now - self._began, 1e-3)
        if self._task is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:,.0f}/s")
        elif now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            print(self._line(done, rate), file=sys.stderr, flush=True)

    def _line(self, done: int, rate: float) -> str:
        if self._total is None:
            return f"{done:,} {self._unit}, {rate:,.0f}/s"
        share = 100 * done // max(self._total, 1)
        left = f"{(self._total - done) / rate:,.0f} s left" if rate else "time left unknown"
        return f"{done:,} of {self._total:,} {self._unit} ({share} %), {rate:,.0f}/s, {left}"
