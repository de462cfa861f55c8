"""What commands say: tables for people, JSON for programs, one line on stderr when something is wrong."""

import json
import sys
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table


def fail(message: str) -> NoReturn:
    """Says what to do and exits with 1."""
    print(message, file=sys.stderr)
    sys.exit(1)


def print_one(found: dict[str, Any] | None, missing: str, as_json: bool) -> None:
    if found is None:
        fail(missing)
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name}: {value}")


def print_rows(rows: list[Any], as_json: bool, columns: tuple[str, ...] = ()) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    names = columns or tuple(rows[0] if rows else ())
    table = Table(*names)
    for row in rows:
        table.add_row(*(str(row.get(name, "")) for name in names))
    Console().print(table if rows else "none")
