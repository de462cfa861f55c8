"""What commands say: tables for people, JSON for programs, one line on stderr when something is wrong."""

import json
import sys
from io import TextIOWrapper
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table


def fail(message: str) -> NoReturn:
    """Says what to do and exits with 1."""
    print(message, file=sys.stderr)
    sys.exit(1)


def prepare_output() -> None:
    """What a terminal cannot show, one of ASCII for example, is replaced instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def print_one(found: dict[str, Any] | None, missing: str, as_json: bool) -> None:
    if found is None:
        fail(missing)
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, content in parts:
            print(f"{f'{name}.{part}' if part else name}: {'unknown' if content is None else content}")


def print_rows(rows: list[Any], as_json: bool, columns: tuple[str, ...] = ()) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    names = columns or tuple(rows[0] if rows else ())
    table = Table()
    for name in names:
        # an id that is cut cannot be copied
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in names))
    # ids may look like markup or emoji codes: [vip], :fire:
    Console(markup=False, emoji=False, highlight=False).print(table if rows else "none")
