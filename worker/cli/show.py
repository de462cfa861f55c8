"""The output of commands: tables for people, JSON for programs, one line on stderr for an error."""

import json
import os
import re
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn, TextIO

from rich.console import Console
from rich.table import Table

_PIPE_WIDTH = 100_000
#: Characters that control a terminal, end a line or change its direction (C0, C1, line separators, direction marks), and white
#: space other than the space, which tables would trim.
_CONTROLS = re.compile(r"[\0-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]|[^\S ]")


def fail(message: str) -> NoReturn:
    """Prints the message to stderr and exits with 1."""
    print("\n".join(map(escape_controls, message.split("\n"))), file=sys.stderr)
    sys.exit(1)


def prepare_output() -> None:
    """Makes stdout and stderr replace what the terminal cannot show, instead of raising, and drop all if they are closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - open until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def print_line(text: str, file: TextIO | None = None) -> None:
    """Prints a line, of which no character controls the terminal, to stdout or ``file``."""
    print(escape_controls(text), file=file)


def print_one(document: dict[str, Any] | None, missing: str, as_json: bool) -> None:
    if document is None:
        fail(missing)
    if as_json:
        print(json.dumps(document))
        return
    for name, value in document.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, content in parts:
            print_line(f"{f'{name}.{part}' if part else name}: {'unknown' if content is None else content}")


def print_rows(rows: list[Any], as_json: bool, columns: tuple[str, ...] = ()) -> None:
    """Prints a table; where it is wider than the terminal, a line for each value, so that no id is broken."""
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    if not rows:
        print("none")
        return
    names = columns or tuple(rows[0])
    # ids may look like markup or emoji codes: [vip], :fire:
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        # a pipe has no width: one line per row, so that `grep` finds a whole id
        console.width = _PIPE_WIDTH
    table = Table(*names)
    for row in rows:
        table.add_row(*(_cell(row.get(name, ""), console.encoding) for name in names))
    if table.__rich_measure__(console, console.options.update(width=_PIPE_WIDTH)).maximum <= console.width:
        console.print(table)
        return
    for number, row in enumerate(rows):
        if number:
            print()
        for name in names:
            print(f"{name}: {_cell(row.get(name, ''), console.encoding)}")


def _cell(value: Any, encoding: str) -> str:
    """A value in the terminal's encoding: other characters are replaced before the width of a column is measured."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else "unknown" if value is None else str(value)
    return escape_controls(text).encode(encoding, "replace").decode(encoding)


def escape_controls(text: str) -> str:
    """The text with control characters escaped as in a Python literal."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)
