"""What commands say: tables for people, JSON for programs, one line on stderr when something is wrong."""

import json
import os
import re
import sys
from io import TextIOWrapper
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

_WIDEST = 100_000
#: What would command a terminal, end a line or turn its direction: C0, C1, separators of lines, marks of direction.
_COMMANDS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def fail(message: str) -> NoReturn:
    """Says what to do and exits with 1."""
    print("\n".join(map(harmless, message.split("\n"))), file=sys.stderr)
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
            print(harmless(f"{f'{name}.{part}' if part else name}: {'unknown' if content is None else content}"))


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
    # ids may look like markup or emoji codes: [vip], :fire:
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        # a pipe has no width: who searches it for an id finds it in one line
        console.width = _WIDEST
    for row in rows:
        table.add_row(*(_cell(row.get(name, ""), console.encoding) for name in names))
    console.print(table if rows else "none")


def _cell(value: Any, encoding: str) -> str:
    """A value as the terminal can show it: replaced here, before its width counts."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return harmless(text).encode(encoding, "replace").decode(encoding)


def harmless(text: str) -> str:
    """A text without what a terminal would take for a command, which is shown as Python writes it."""
    return _COMMANDS.sub(lambda found: ascii(found[0])[1:-1], text)
