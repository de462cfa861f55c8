"""The output of commands: tables for people, JSON for programs, one line on stderr for an error."""

import json
import os
import re
import sys
from io import TextIOWrapper
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

_PIPE_WIDTH = 100_000
#: Characters that control a terminal, end a line or change its direction: C0, C1, line separators, direction marks.
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def fail(message: str) -> NoReturn:
    """Prints the message to stderr and exits with 1."""
    print("\n".join(map(escape_controls, message.split("\n"))), file=sys.stderr)
    sys.exit(1)


def prepare_output() -> None:
    """Makes stdout and stderr replace characters that the terminal cannot show, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")


def print_one(document: dict[str, Any] | None, missing: str, as_json: bool) -> None:
    if document is None:
        fail(missing)
    if as_json:
        print(json.dumps(document))
        return
    for name, value in document.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, content in parts:
            print(escape_controls(f"{f'{name}.{part}' if part else name}: {'unknown' if content is None else content}"))


def print_rows(rows: list[Any], as_json: bool, columns: tuple[str, ...] = ()) -> None:
    if as_json:
        for row in rows:
            print(json.dumps(row))
        return
    names = columns or tuple(rows[0] if rows else ())
    table = Table()
    for name in names:
        # a truncated id cannot be copied
        table.add_column(name, overflow="fold")
    # ids may look like markup or emoji codes: [vip], :fire:
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        # a pipe has no width: one line per row, so that `grep` finds a whole id
        console.width = _PIPE_WIDTH
    for row in rows:
        table.add_row(*(_cell(row.get(name, ""), console.encoding) for name in names))
    console.print(table if rows else "none")


def _cell(value: Any, encoding: str) -> str:
    """A value in the terminal's encoding: other characters are replaced before the width of a column is measured."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return escape_controls(text).encode(encoding, "replace").decode(encoding)


def escape_controls(text: str) -> str:
    """The text with control characters escaped as in a Python literal."""
    return _CONTROLS.sub(lambda match: ascii(match[0])[1:-1], text)
