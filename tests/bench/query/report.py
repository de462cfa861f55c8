"""The figures of a run: tables for people, JSON for who compares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil, inf
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from tests.bench.query.asking import PLACES, Block, Cell
from tests.bench.query.classes import FIELDS, LARGE_SESSION_MS, MOST_MS, QUICK_MS, Asked

LATEST = Path(__file__).parents[1] / "query-latest.json"
LONGEST_BLOCK_MS = 5.0
_MOST_LINES = 20
_HTTP_TARGETS = {"get_per_s": (2000.0, inf), "get_p99_ms_beside": (0.0, 10.0), "set_p99_ms": (0.0, 150.0)}


@dataclass
class Found:
    """What a run has found so far."""

    about: dict[str, Any]
    """What was measured on."""
    machine: dict[str, str]
    bytes_per_attendance: float = 0.0
    cells: list[Cell] = field(default_factory=list)
    blocks: dict[str, Block] = field(default_factory=dict)
    counts: dict[str, list[float]] = field(default_factory=dict)
    gets: list[float] = field(default_factory=list)
    ping: dict[str, float] = field(default_factory=dict)
    http: dict[str, float] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    """Targets that were not met, one line each."""


def share(samples: Iterable[float], part: float) -> float:
    """The sample below which this part of them lies, the largest of few."""
    ordered = sorted(samples)
    return ordered[max(0, ceil(part * len(ordered)) - 1)]


def times(cells: Iterable[Cell]) -> tuple[float, float] | None:
    """p50 and p99 of the slowest place, both directions together; None where nothing was asked."""
    by_place = {place: [took for cell in cells_of for took in cell.samples] for place, cells_of in _places(cells).items()}
    spread = [(share(some, 0.5), share(some, 0.99)) for some in by_place.values() if some]
    return (max(p50 for p50, _ in spread), max(p99 for _, p99 in spread)) if spread else None


def summary(found: Found) -> dict[str, float]:
    """The figures that are looked at first."""
    worst: dict[float, list[float]] = {QUICK_MS: [0.0], MOST_MS: [0.0], LARGE_SESSION_MS: [0.0]}
    of: dict[str, list[float]] = {"booking": [0.0], "id": [share(found.gets, 0.99) if found.gets else 0.0]}
    for (asked, fields), cells in _combinations(found.cells).items():
        spread = times(cells)
        if spread is not None:
            worst.setdefault(asked.limit_ms(fields), []).append(spread[1])
            of.setdefault(asked.of, []).append(spread[1])
    return {
        "worst_p99_ms": max(worst[MOST_MS]),
        "booking_p99_ms": max(of["booking"]),
        "id_p99_ms": max(of["id"]),
        "longest_block_ms": max((block.longest_ms for block in found.blocks.values()), default=0.0),
        "large_session_p99_ms": max(worst[LARGE_SESSION_MS]),
    }


def judge(found: Found) -> None:
    """Fills in which targets were missed."""
    for (asked, fields), cells in _combinations(found.cells).items():
        spread, limit = times(cells), asked.limit_ms(fields)
        if spread is not None and spread[1] > limit:
            found.missed.append(f"{asked.name} by {', '.join(fields)}: p99 {spread[1]:.1f} ms, at most {limit:.0f}")
    for name, block in found.blocks.items():
        if block.longest_ms > LONGEST_BLOCK_MS:
            found.missed.append(f"{name}: {block.longest_command} held the server for {block.longest_ms:.1f} ms, at most 5")
    for name, (at_least, at_most) in _HTTP_TARGETS.items():
        value = found.http.get(name)
        if value is not None and not at_least <= value <= at_most:
            found.missed.append(f"http {name}: {value:g}, not within {at_least:g} and {at_most:g}")


def write(found: Found, path: Path = LATEST) -> None:
    """Writes the JSON."""
    first = summary(found)
    large = first.pop("large_session_p99_ms")
    document = {
        **{name: round(value, 3) for name, value in first.items()},
        "http_get_per_s": found.http.get("get_per_s"),
        "reader": {
            "large_session_by_another_field_p99_ms": round(large, 3),
            "get_ms": _spread(found.gets),
            "count_ms": {name: _spread(samples) for name, samples in found.counts.items()},
            "server": {name: block._asdict() for name, block in found.blocks.items()},
            "cells": [
                {"filter": cell.asked.name, "sort": ",".join(cell.sort), "place": cell.place, **_spread(cell.samples)}
                for cell in found.cells
                if cell.samples
            ],
        },
        "memory": {"bytes_per_attendance": round(found.bytes_per_attendance, 1)},
        "ping_ms": found.ping,
        "http": found.http,
        "missed": found.missed,
        "data": found.about,
        "machine": found.machine,
    }
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


def show(found: Found) -> None:
    """Prints the tables."""
    console = Console(highlight=False, width=150)
    console.print(", ".join(f"{name} {value}" for name, value in found.machine.items()), soft_wrap=True)
    console.print(", ".join(f"{name} {value}" for name, value in found.about.items()), soft_wrap=True)
    single = [cell for cell in found.cells if len(cell.sort) == 1]
    double = [cell for cell in found.cells if len(cell.sort) == 2]
    console.print(
        _table("p50/p99 ms by filter and order: the worst of first, deep and previous pages, both directions", single, found)
    )
    if double:
        console.print(_table("two fields: by the first one, the worst of the second ones", double))
    _show_rest(console, found)


def _table(title: str, cells: Sequence[Cell], found: Found | None = None) -> Table:
    table = Table("filter", show_edge=False, title=title, title_justify="left")
    for name in (*FIELDS, *(("count", "server ms", "client ms", "longest ms") if found else ())):
        table.add_column(name, justify="right")
    for asked in dict.fromkeys(cell.asked for cell in cells):
        row = []
        for first in FIELDS:
            combinations = _combinations(cell for cell in cells if cell.asked == asked and cell.fields[0] == first)
            row.append(_worst([(times(some), asked.limit_ms(fields)) for (_, fields), some in combinations.items()]))
        if found:
            block, counts = found.blocks[asked.name], found.counts.get(asked.name)
            row.append(f"{share(counts, 0.5):.1f}/{share(counts, 0.99):.1f}" if counts else "")
            row += [f"{block.server_ms:.2f}", f"{block.client_ms:.2f}", _marked(block.longest_ms, LONGEST_BLOCK_MS)]
        table.add_row(asked.name, *row)
    return table


def _show_rest(console: Console, found: Found) -> None:
    first = summary(found)
    console.print(
        f"worst p99 {first['worst_p99_ms']:.1f} ms (at most {MOST_MS:.0f}), of a booking {first['booking_p99_ms']:.1f}, "
        f"of an id {first['id_p99_ms']:.1f} (at most {QUICK_MS:.0f}), of a large session by another field "
        f"{first['large_session_p99_ms']:.1f} (at most {LARGE_SESSION_MS:.0f})",
        soft_wrap=True,
    )
    if found.gets:
        console.print(f"get: p50 {share(found.gets, 0.5):.2f} ms, p99 {share(found.gets, 0.99):.2f} ms")
    console.print(
        f"longest command of the server {first['longest_block_ms']:.2f} ms (its SLOWLOG); "
        f"{found.bytes_per_attendance:.0f} bytes per attendance, its booking's summary included",
        soft_wrap=True,
    )
    if found.ping:
        waits, late = ([f"{found.ping[name]:.1f}" for name in (f"{of}p50", f"{of}p99", f"{of}max")] for of in ("", "late_"))
        console.print(
            f"beside the queries a ping waited {', '.join(waits)} ms (p50, p99, longest), and its sender for the processor "
            f"{', '.join(late)} ms, which on a quiet machine is next to nothing",
            soft_wrap=True,
        )
    if found.http:
        console.print(f"http: {found.http}", soft_wrap=True)
    for line in found.missed[:_MOST_LINES]:
        console.print(f"[red]missed[/red] {line}", soft_wrap=True)
    if len(found.missed) > _MOST_LINES:
        console.print(f"[red]missed[/red] {len(found.missed) - _MOST_LINES} more, in {LATEST.name}")


def _worst(spreads: Sequence[tuple[tuple[float, float] | None, float]]) -> str:
    known = [(spread, limit) for spread, limit in spreads if spread is not None]
    if not known:
        return ""
    (p50, p99), limit = max(known, key=lambda each: each[0][1] / each[1])
    return f"{p50:.1f}/{_marked(p99, limit)}"


def _marked(value: float, limit: float) -> str:
    return f"[bold red]{value:.1f}![/bold red]" if value > limit else f"{value:.1f}"


def _spread(samples: Sequence[float]) -> dict[str, float]:
    if not samples:
        return {}
    spread = {"p50": share(samples, 0.5), "p99": share(samples, 0.99), "max": max(samples), "samples": len(samples)}
    return {name: round(value, 3) for name, value in spread.items()}


def _combinations(cells: Iterable[Cell]) -> dict[tuple[Asked, tuple[str, ...]], list[Cell]]:
    found: dict[tuple[Asked, tuple[str, ...]], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.asked, cell.fields), []).append(cell)
    return found


def _places(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    known = list(cells)
    return {place: [cell for cell in known if cell.place == place] for place in PLACES}
