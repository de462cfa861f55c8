"""`attendance publish` and `attendance simulate`."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from typing import Annotated

import typer
from aiokafka import AIOKafkaProducer
from rich.console import Console

from worker import EXIT_INTERRUPTED
from worker.cli.services import service_settings
from worker.cli.show import print_line
from worker.cli.signals import run_until_stopped
from worker.kafka import create_producer, require_answer
from worker.ops.publish import BadLine, Outgoing, Progress, lines, read_line, send_as_read, size_of
from worker.ops.scenarios import LENGTH, SCENARIOS, ScenarioName, make
from worker.ops.simulate import Plan, play, run
from worker.settings import Settings
from worker.tasks import run_until, uncancelled


def publish(
    files: Annotated[list[typer.FileBinaryRead], typer.Argument(help="JSON lines of events, - for stdin")],
    backfill: Annotated[
        bool, typer.Option("--backfill", help="publish history: each event counts as received at its own time")
    ] = False,
) -> None:
    """Publish events from files of JSON lines, keyed by booking."""
    settings = service_settings()
    now = int(time.time() * 1000)
    bad_lines: list[BadLine] = []
    size, bytes_read = size_of(files), 0

    def outgoing() -> Iterator[Outgoing]:
        nonlocal bytes_read
        for file in files:
            for number, (line, length) in enumerate(lines(file), 1):
                record = read_line(line, f"{file.name}:{number}", settings, now, backfill=backfill)
                bytes_read += length
                if isinstance(record, Outgoing):
                    yield record
                elif line.strip():
                    bad_lines.append(record)

    def percentage() -> str:
        return f" ({100 * bytes_read // size} %)" if size else ""

    _publish(settings, lambda producer, progress, stop: send_as_read(producer, outgoing(), progress, stop), percentage)
    for bad_line in bad_lines:
        print_line(f"{bad_line.where}: {bad_line.detail}", sys.stderr)
    if bad_lines:
        raise typer.Exit(1)


def simulate(
    context: typer.Context,
    scenario: Annotated[
        ScenarioName | None, typer.Argument(help="a day at a venue, ten minutes of it; left out: a mixture by the options")
    ] = None,
    is_list: Annotated[bool, typer.Option("--list", help="print the scenarios, with what happens in each")] = False,
    seed: Annotated[int, typer.Option(help="seed of the generator; the same seed gives the same events")] = 1,
    speed: Annotated[float, typer.Option(min=0.1, max=10_000, help="of a scenario: how many times faster than real time")] = 1,
    count: Annotated[int, typer.Option(min=1, help="how many events")] = 10_000,
    rate: Annotated[float, typer.Option(min=0, help="events per second; 0: as fast as possible")] = 0,
    bookings: Annotated[int, typer.Option(min=1)] = 1000,
    sessions: Annotated[int, typer.Option(min=1)] = 20,
    burst: Annotated[float, typer.Option(min=1, help="factor by which the rate rises in bursts, one second of every ten")] = 1,
    duplicates: Annotated[float, typer.Option(min=0, max=1, help="share of events sent twice")] = 0.02,
    offline: Annotated[float, typer.Option(min=0, max=1, help="share of events that arrive late, after an offline gap")] = 0.02,
    bad_clocks: Annotated[float, typer.Option(min=0, max=1, help="share of events from a device whose clock is wrong")] = 0.01,
    bad_payloads: Annotated[float, typer.Option(min=0, max=1, help="share of events with an invalid payload")] = 0.001,
) -> None:
    """Publish simulated events of kiosks and scanners, with their faults: a scenario, or a mixture."""
    if is_list:
        for name, each in SCENARIOS.items():
            print_line(f"{name:16}{each.summary}")
        return
    _refuse_options_of_the_other(context, scenario)
    settings = service_settings()
    if scenario is None:
        plan = Plan(count, rate, bookings, sessions, burst, duplicates, offline, bad_clocks, bad_payloads, seed)
        _publish(settings, lambda producer, progress, stop: run(producer, settings, plan, progress, stop))
        return
    made, sent = make(scenario, seed), 0

    async def playing(producer: AIOKafkaProducer, progress: Progress, stop: asyncio.Event) -> int:
        def sent_now(number: int) -> None:
            nonlocal sent
            sent = number
            progress(number)

        minutes, name = LENGTH / speed / 60, scenario.value
        print_line(f"{name}: {SCENARIOS[scenario].summary}; takes {minutes:.1f} min", sys.stderr)
        print_line(f"expect: {SCENARIOS[scenario].expect}", sys.stderr)
        return await play(producer, settings, made, speed, sent_now, stop)

    _publish(settings, playing, lambda: f" ({100 * sent // len(made.steps)} %)")


def _refuse_options_of_the_other(context: typer.Context, scenario: ScenarioName | None) -> None:
    """A scenario has its own numbers; only a scenario has a speed."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    refused = sorted(given - {"scenario", "seed", "speed"} if scenario else given & {"speed"})
    if refused:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in refused)
        raise typer.BadParameter(f"{options}: not for a scenario, leave it out" if scenario else f"{options}: name a scenario")


def _publish(
    settings: Settings,
    work: Callable[[AIOKafkaProducer, Progress, asyncio.Event], Awaitable[int]],
    percentage: Callable[[], str] = str,
) -> None:
    """Publishes with its own producer until done or Ctrl-C; shows the progress on a terminal, and the count at the end."""

    async def publishing(stop: asyncio.Event) -> tuple[int, bool]:
        producer = create_producer(settings, linger_ms=5)
        console = Console(stderr=True)
        with console.status("publishing") if console.is_terminal else nullcontext() as status:
            try:
                await run_until(stop, require_answer(settings))
                await run_until(stop, uncancelled(producer.start()))
                if stop.is_set():
                    return 0, True
                count = await work(
                    producer, lambda count: status.update(f"published {count:,}{percentage()}") if status else None, stop
                )
                return count, stop.is_set()
            finally:
                await producer.stop()

    count, is_stopped = run_until_stopped(publishing)
    print(f"published {count} events", file=sys.stderr)
    if is_stopped:
        raise typer.Exit(EXIT_INTERRUPTED)
