"""The figures of all runs: their medians, as tables for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from tests.bench.figures import RATIOS, Figures, inner, medians, ratios
from tests.bench.workload import Workload

LATEST = Path(__file__).with_name("latest.json")

_ROWS = (
    ("freshness.p50_ms", "freshness at 1,000 events/s, p50 ms", ".1f"),
    ("freshness.p99_ms", "freshness at 1,000 events/s, p99 ms", ".1f"),
    ("freshness.worker_us", "at 1,000 events/s: worker CPU, us per event", ".0f"),
    ("freshness.redis_us", "at 1,000 events/s: Redis CPU, us per event, with the looks", ".0f"),
    ("freshness.kafka_us", "at 1,000 events/s: broker CPU, us per event", ".0f"),
    ("parts.decode_us", "Python core alone: decode, us (best of 5)", ".2f"),
    ("parts.fold_us", "Python core alone: order key and fold, us (best of 5)", ".2f"),
    ("parts.metrics_us", "metrics, batches of 1,000, us (best of 5)", ".2f"),
    ("million.redis_us_per_insert", "many attendances: Redis CPU, us per insert", ".1f"),
    ("million.redis_us_per_update", "many attendances: Redis CPU, us per update", ".1f"),
    ("million.bytes_per_attendance", "many attendances: Redis bytes per attendance, its booking's included", ".0f"),
    ("million.recovery_records_per_s", "many attendances: recovery, records/s", ",.0f"),
    ("million.rss_mb", "many attendances: worker peak resident, MB", ".0f"),
)
_COLUMNS = (
    ("events_per_s", "events/s", ",.0f"),
    ("cpu_us", "CPU us per event", ".1f"),
    ("redis_us", "Redis", ".1f"),
    ("kafka_us", "broker", ".1f"),
    ("all_cpu_us", "all three", ".1f"),
    ("rss_mb", "peak MB", ".0f"),
    ("events", "events", ",.0f"),
)


def about(name: str, workload: Workload) -> dict[str, Any]:
    """What was measured on."""
    return {
        "name": name,
        "events": workload.event_count,
        "bookings": workload.booking_count,
        "attendances": workload.attendances,
        "partitions": len(workload.events),
        "mean_event_bytes": workload.mean_event_bytes,
        "losing_events": workload.losing,
    }


def write(
    runs: Sequence[Figures],
    failed: Sequence[str],
    loads: Sequence[Mapping[str, Any]],
    machine: Mapping[str, str],
    path: Path = LATEST,
) -> None:
    """Writes `latest.json`: medians by workload and line, their `ratios`, every run under `runs`, and what `failed`."""
    document: dict[str, Any] = {}
    found = medians(runs)
    for name, value in found.items():
        _place(document, name.split("."), value)
    document |= {"ratios": ratios(found), "workloads": list(loads), "machine": machine, "failed": list(failed)}
    path.write_bytes(orjson.dumps({**document, "runs": list(runs)}, option=orjson.OPT_INDENT_2) + b"\n")


def _place(document: dict[str, Any], path: Sequence[str], value: float) -> None:
    for name in path[:-1]:
        document = document.setdefault(name, {})
    document[path[-1]] = value


def show(runs: Sequence[Figures], loads: Sequence[Mapping[str, Any]], machine: Mapping[str, str]) -> None:
    """Prints the tables."""
    console, found = Console(highlight=False, width=140), medians(runs)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), soft_wrap=True)
    if len(runs) > 1:
        console.print(f"medians of {len(runs)} runs")
    for load in loads:
        _show_lines(console, found, load)
    table = Table("figure", show_edge=False)
    table.add_column("", justify="right")
    for key, title, form in _ROWS:
        if key in found:
            table.add_row(title, format(found[key], form))
    _print(console, table)
    _show_sizes(console, found)
    _show_ratios(console, found)


def _show_lines(console: Console, found: Figures, load: Mapping[str, Any]) -> None:
    console.print(
        f"{load['name']}: {load['events']:,} events of {load['mean_event_bytes']:.0f} bytes "
        f"({load['losing_events']:.0%} lose against a newer one); {load['bookings']:,} bookings, "
        f"{load['attendances']:,} attendances, {load['partitions']} partitions; one process",
        soft_wrap=True,
    )
    table = Table(f"the same {load['name']} events", show_edge=False)
    for _, title, _ in _COLUMNS:
        table.add_column(title, justify="right")
    for line in inner(found, load["name"]):
        cells = ((found.get(f"{load['name']}.{line}.{key}"), form) for key, _, form in _COLUMNS)
        table.add_row(line, *("" if value is None else format(value, form) for value, form in cells))
    _print(console, table)


def _show_sizes(console: Console, found: Figures) -> None:
    sizes = sorted(inner(found, "sizes"), key=int)
    if len(sizes) > 1:
        table = Table("worker by events", show_edge=False)
        for title in ("events/s", "worker us per event", "Redis us per event"):
            table.add_column(title, justify="right")
        for size in sizes:
            figures = [found[f"sizes.{size}.{name}"] for name in ("cpu_us", "redis_us")]
            table.add_row(f"{int(size):,}", f"{found[f'sizes.{size}.events_per_s']:,.0f}", *(f"{each:.1f}" for each in figures))
        _print(console, table)


def _show_ratios(console: Console, found: Figures) -> None:
    values = ratios(found)
    table = Table("ratio", show_edge=False)
    table.add_column("", justify="right")
    for each in RATIOS:
        if each.name in values:
            table.add_row(each.title, f"{values[each.name]:.3g}")
    _print(console, table)


def _print(console: Console, table: Table) -> None:
    if table.row_count:
        console.print(table)
        console.print()
