"""What commands that take long share: the plan that is confirmed, progress, and the summary."""

import asyncio
import json
import sys
from collections.abc import Mapping
from time import monotonic
from types import TracebackType
from typing import Annotated, Any, Self, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from worker.cli.show import fail, print_line
from worker.read_model.operations import Operation, Operations
from worker.redis.client import create_redis
from worker.settings import Settings

T = TypeVar("T")
Yes = Annotated[bool, typer.Option("--yes", help="do not ask")]

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


def print_summary(summary: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints to stdout what a command did: one JSON document, or a line for each value."""
    if as_json:
        print(json.dumps(summary))
        return
    for name, value in summary.items():
        print_line(f"{name}: {value}")


def abort_operation(settings: Settings, operation_id: str, command: str, *, as_json: bool) -> None:
    """Ends an interrupted operation of a command for good, and prints what it had done.

    Raises:
        OperationError: there is none, it is of another command, has ended, or still runs.
    """

    async def aborting() -> Operation:
        client = create_redis(settings)
        try:
            return await Operations(client, settings.redis_namespace).abort(operation_id, command)
        finally:
            await client.aclose()

    operation = asyncio.run(aborting())
    print_summary({"id": operation.id, "state": operation.state.value, **operation.counts}, as_json=as_json)


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
