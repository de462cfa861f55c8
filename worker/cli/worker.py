"""The command `worker`: runs one, or asks those that run on this machine."""

import asyncio
import json
import sys
from typing import Annotated

import structlog
import typer

from worker.cli.services import service_settings
from worker.cli.show import fail, print_line
from worker.cli.signals import run_until_stopped
from worker.logs import configure_client_logs, configure_logs
from worker.ops import start
from worker.ops.companions import Companions
from worker.settings import Settings

log = structlog.get_logger(__name__)


def worker(
    status: Annotated[bool, typer.Option("--status", help="ask the workers that run on this machine, and start none")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="with --status: one JSON document per worker")] = False,
) -> None:
    """Run one worker, which folds events into attendances; at most one per partition is busy."""
    if as_json and not status:
        raise typer.BadParameter("--json requires --status")
    settings = service_settings()
    if status:
        _print_statuses(settings, as_json=as_json)
    else:
        _run(settings)


def _run(settings: Settings) -> None:
    # only here: importing Faust takes half a second, and no other command needs it
    from uvloop import EventLoopPolicy

    from worker.stream.errors import TablesDropped
    from worker.stream.stopping import Stopping
    from worker.stream.worker import Worker

    stopping = Stopping()
    configure_logs(settings)

    async def work(stop: asyncio.Event) -> None:
        companions: list[Companions] = []
        keeping: list[asyncio.Task[None]] = []

        async def check() -> Settings:
            chosen = await start.with_tables(settings)
            problems = await start.problems(chosen)
            for problem in problems:
                print_line(problem, sys.stderr)
            if problems:
                raise typer.Exit(1)
            configure_client_logs(settings)
            if not settings.tables:
                companions.append(Companions(chosen))
                keeping.append(asyncio.create_task(companions[0].keep()))
            return chosen

        try:
            await Worker(settings, stopping).run(stop, check)
        except TablesDropped as error:
            if not any(each.are_running for each in companions):
                raise
            log.info("leaving the work to the worker of other tables", reason=str(error))
            stopping.withdraw()
            await companions[0].until_ended(stop)
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)

    # also for the loop of the Kafka client's thread, which Faust creates: a tenth of the CPU at 1,000 events/s
    asyncio.set_event_loop_policy(EventLoopPolicy())
    run_until_stopped(work, lambda: stopping.begin(0))


def _print_statuses(settings: Settings, *, as_json: bool) -> None:
    # only here: the HTTP client and Prometheus' take a tenth of a second
    from worker.ops.worker_status import describe, worker_statuses

    if settings.metrics_address[1] == 0:
        fail(f"ATTENDANCE_METRICS_BIND: with {settings.metrics_bind} each worker has any free port: set a port to find them")
    statuses = worker_statuses(settings)
    if not statuses:
        fail(f"no worker of {settings.topic_prefix} answers at {settings.metrics_bind} and the ports after it: start one")
    for each in statuses:
        print_line(json.dumps(each) if as_json else describe(each))
    if not all(each["ready"] for each in statuses):
        raise typer.Exit(1)
