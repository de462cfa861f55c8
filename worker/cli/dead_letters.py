"""The commands `dead-letters …`."""

import json
import sys
from contextlib import aclosing
from typing import Annotated, Any

import typer

from worker.cli.arguments import decode_argument
from worker.cli.dead_letter_changes import export, park, replay, unpark
from worker.cli.dead_letter_options import (
    From,
    OfBooking,
    OfState,
    OfTopic,
    Reasons,
    Shown,
    Sources,
    To,
    plan_of,
    read_letters,
    selection_of,
    wanted_state,
)
from worker.cli.long_commands import ProgressReport
from worker.cli.reads import Json
from worker.cli.services import service_settings
from worker.cli.show import print_line, print_rows
from worker.ops import dead_letter_files as files
from worker.ops.dead_letters import DeadLetters

dead_letters_app = typer.Typer(
    help="Look at records that could not be used, mend them and send them again.", no_args_is_help=True
)

#: Rows of each table of `stats`.
_ROWS = 20


@dead_letters_app.command("stats")
def stats(
    reasons: Reasons = None,
    sources: Sources = None,
    topic: OfTopic = None,
    booking: OfBooking = None,
    from_: From = None,
    to: To = None,
    state: OfState = Shown.OPEN,
    as_json: Json = False,
) -> None:
    """Count dead letters by reason, source and hour."""
    settings = service_settings()
    selection = selection_of(settings, reasons, sources, topic, booking, from_, to, wanted_state(state))
    counted = plan_of(settings, selection, None).stats
    tables = {"reason": counted.reasons, "source": counted.sources, "hour": counted.hours}
    if as_json:
        print(json.dumps({"count": counted.count} | {f"{name}s": dict(table) for name, table in tables.items()}))
        return
    print(f"{counted.count} dead letters")
    for name, table in tables.items():
        shown = sorted(table.items())[-_ROWS:] if name == "hour" else table.most_common(_ROWS)
        if shown:
            print_rows([{name: key, "count": count} for key, count in shown], as_json=False)
        if len(table) > _ROWS:
            print(f"the {'last' if name == 'hour' else 'most frequent'} {_ROWS} of {len(table)}; --json has all")


@dead_letters_app.command("list")
def list_(
    reasons: Reasons = None,
    sources: Sources = None,
    topic: OfTopic = None,
    booking: OfBooking = None,
    from_: From = None,
    to: To = None,
    state: OfState = Shown.OPEN,
    most: Annotated[int, typer.Option("--max", min=1, help="at most so many")] = 100,
    as_json: Json = False,
) -> None:
    """List dead letters, of each partition the oldest first."""
    settings = service_settings()
    selection = selection_of(settings, reasons, sources, topic, booking, from_, to, wanted_state(state))

    async def listing(letters: DeadLetters) -> list[dict[str, Any]]:
        rows, done = list[dict[str, Any]](), 0
        async with aclosing(letters.select(await letters.windows(selection), selection)) as parts:
            async for part in parts:
                done += part.end - part.begin
                report.update(done)
                rows += [record.shown(state) for record, state in part.records[: most + 1 - len(rows)]]
                if len(rows) > most:
                    break
        return rows

    with ProgressReport("offsets") as report:
        rows = read_letters(settings, listing)
    columns = ("id", "state", "reason", "source", "bookingId", "firstSeen", "replays", "detail")
    print_rows(rows[:most], as_json, columns)
    if len(rows) > most:
        print(f"more dead letters match: --max {10 * most}, or `attendance dead-letters export`", file=sys.stderr)


@dead_letters_app.command("show")
def show(
    dead_letter: Annotated[str, typer.Argument(metavar="ID", help="id as `list` shows it, partition:offset")],
    as_json: Json = False,
) -> None:
    """Show a dead letter with its headers and its value."""
    line = files.line_of(*read_letters(service_settings(), lambda letters: letters.show(decode_argument(dead_letter))))
    if as_json:
        sys.stdout.write(line.decode())
        return
    document = json.loads(line)
    value = document.pop("value", None)
    headers = document.pop("headers")
    for name, content in (*document.items(), *((f"header {name}", content) for name, content in headers)):
        print_line(f"{name}: {'' if content is None else content}")
    print("value:")
    for text in (json.dumps(value, indent=2) if isinstance(value, dict) else str(value)).splitlines():
        print_line(text)


for command in (export, replay, park, unpark):
    dead_letters_app.command()(command)
