"""The figures of all runs: their medians, as tables for people and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from tests.bench.million import Held
from tests.bench.parts import Services
from tests.bench.peers import Result
from tests.bench.subject import Measured
from tests.bench.workload import Workload

LATEST = Path(__file__).with_name("latest.json")

Figures = dict[str, float]
"""Of one run, or medians of several; those of peers and of growth have dots in their names. What was not measured is absent."""

_WORKER = "attendance worker"
_RATIOS = {
    "ratio_stock_faust": "stock_faust",
    "ratio_quix": "quix_streams",
    "ratio_kafka_streams": "kafka_streams",
    "ratio_raw_limit": "raw_aiokafka",
}
_ROWS = (
    ("events_per_s", "events/s, end to end", ",.0f"),
    ("worker_us_per_event", "worker CPU, us per event", ".1f"),
    ("redis_us_per_event", "Redis CPU, us per event", ".1f"),
    ("kafka_us_per_event", "Kafka broker CPU, us per event", ".1f"),
    ("decode_us", "decode, us (best of 5)", ".2f"),
    ("fold_us", "order key and fold, us (best of 5)", ".2f"),
    ("metrics_us", "metrics, batches of 1,000, us (best of 5)", ".2f"),
    ("alerts_per_event", "alerts published per event", ".3f"),
    ("run_rss_mb", "worker peak resident, MB", ".0f"),
    ("freshness_p50_ms", "freshness at 1,000 events/s, p50 ms", ".1f"),
    ("freshness_p99_ms", "freshness at 1,000 events/s, p99 ms", ".1f"),
    ("redis_us_per_insert", "at a million attendances: Redis CPU, us per insert", ".1f"),
    ("redis_us_per_update", "at a million attendances: Redis CPU, us per update", ".1f"),
    ("bytes_per_attendance", "at a million attendances: Redis bytes per attendance, its booking's included", ".0f"),
    ("recovery_records_per_s", "at a million attendances: recovery, records/s", ",.0f"),
    ("million_rss_mb", "at a million attendances: worker peak resident, MB", ".0f"),
    ("growth", "worker CPU per event at 1,000,000 events over that at 100,000", ".2f"),
)


def of_worker(measured: Measured) -> Figures:
    """What the main measurement found."""
    span = measured.span
    found = {
        "events_per_s": span.events_per_s,
        "worker_us_per_event": span.worker_us,
        "redis_us_per_event": span.redis_us,
        "kafka_us_per_event": span.kafka_us,
        "measured_events": span.events,
        "measured_seconds": span.seconds,
        "run_rss_mb": measured.peak_rss_bytes / 1e6,
        "run_bytes_per_attendance": measured.bytes_per_attendance,
        "run_bytes_per_booking": measured.bytes_per_booking,
        "alerts_per_event": measured.alerts / span.events,
    }
    if measured.fresh is not None:
        fresh = measured.fresh
        found |= {"freshness_p50_ms": fresh.p50_ms, "freshness_p99_ms": fresh.p99_ms, "freshness_look_ms": fresh.look_ms}
    return found


def of_parts(parts: Services) -> Figures:
    """What parts of the worker cost alone."""
    return parts._asdict()


def of_million(held: Held) -> Figures:
    """What was found at a million attendances."""
    return {
        "redis_us_per_insert": held.insert.redis_us,
        "redis_us_per_update": held.update.redis_us,
        "bytes_per_attendance": held.bytes_per_attendance,
        "recovery_records_per_s": held.recovery_records_per_s,
        "recovery_records": held.recovered_records,
        "recovery_seconds": held.recovery_seconds,
        "million_rss_mb": held.peak_rss_bytes / 1e6,
        "million_rss_at_end_mb": held.rss_bytes / 1e6,
        "million_insert_events_per_s": held.insert.events_per_s,
        "million_insert_worker_us": held.insert.worker_us,
        "million_update_worker_us": held.update.worker_us,
    }


def of_peer(peer: str, result: Result) -> Figures:
    """What a peer did."""
    return {
        f"peers.{peer}.events_per_s": result.events_per_s,
        f"peers.{peer}.cpu_us_per_event": result.cpu_us,
        f"peers.{peer}.rss_mb": result.peak_rss_bytes / 1e6,
        f"peers.{peer}.events": result.events,
    }


def of_size(events: int, measured: Measured) -> Figures:
    """What an event costs when there are so many."""
    span = measured.span
    return {
        f"sizes.{events}.worker_us_per_event": span.worker_us,
        f"sizes.{events}.redis_us_per_event": span.redis_us,
        f"sizes.{events}.events_per_s": span.events_per_s,
    }


def medians(runs: Sequence[Figures]) -> Figures:
    """The median of each figure over the runs that have it, and what follows from them: ratios, growth, rss_mb."""
    names = dict.fromkeys(name for run in runs for name in run)
    found = {name: median(run[name] for run in runs if name in run) for name in names}
    return {**_derived(found), **found}


def _derived(found: Figures) -> Figures:
    ratios = {name: _over(found, "events_per_s", f"peers.{peer}.events_per_s") for name, peer in _RATIOS.items()}
    ratios["cpu_ratio_kafka_streams"] = _over(found, "peers.kafka_streams.cpu_us_per_event", "worker_us_per_event")
    ratios["growth"] = _over(found, "sizes.1000000.worker_us_per_event", "sizes.100000.worker_us_per_event")
    sizes = [found[name] for name in ("run_rss_mb", "million_rss_mb") if name in found]
    ratios["rss_mb"] = max(sizes, default=None)
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def _over(found: Figures, one: str, other: str) -> float | None:
    return found[one] / found[other] if one in found and other in found else None


def about(workload: Workload, *, ordered: bool) -> dict[str, Any]:
    """What was measured on."""
    return {
        "events": workload.event_count,
        "bookings": workload.booking_count,
        "attendances": workload.attendances,
        "partitions": len(workload.events),
        "mean_event_bytes": workload.mean_event_bytes,
        "times": "nearly in order" if ordered else "anywhere within an hour",
        "losing_events": workload.losing,
    }


def write(
    runs: Sequence[Figures], failed: Sequence[str], load: Mapping[str, Any], machine: Mapping[str, str], path: Path = LATEST
) -> None:
    """Writes `latest.json`: medians at the top, every run under `runs`, what failed under `failed`."""
    document: dict[str, Any] = {}
    for name, value in medians(runs).items():
        _place(document, name.split("."), value)
    document |= {"workload": load, "machine": machine, "failed": list(failed), "runs": list(runs)}
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


def _place(document: dict[str, Any], path: Sequence[str], value: float) -> None:
    for name in path[:-1]:
        document = document.setdefault(name, {})
    document[path[-1]] = value


def show(runs: Sequence[Figures], load: Mapping[str, Any], machine: Mapping[str, str]) -> None:
    """Prints the tables."""
    console, found = Console(highlight=False, width=120), medians(runs)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), soft_wrap=True)
    console.print(
        f"{load['events']:,} events of {load['mean_event_bytes']:.0f} bytes, their times {load['times']} "
        f"({load['losing_events']:.0%} lose against a newer one); {load['bookings']:,} bookings, "
        f"{load['attendances']:,} attendances, {load['partitions']} partitions; one worker"
        + (f"; medians of {len(runs)} runs" if len(runs) > 1 else ""),
        soft_wrap=True,
    )
    table = Table("worker", show_edge=False)
    table.add_column("", justify="right")
    for key, title, form in _ROWS:
        if key in found:
            table.add_row(title, format(found[key], form))
    if table.row_count:
        console.print(table)
    _show_sizes(console, found)
    _show_contest(console, found)


def _show_sizes(console: Console, found: Figures) -> None:
    sizes = sorted(_inner(found, "sizes"), key=int)
    if len(sizes) > 1:
        table = Table("worker by events", show_edge=False)
        for title in ("events/s", "worker us per event", "Redis us per event"):
            table.add_column(title, justify="right")
        for size in sizes:
            figures = [found[f"sizes.{size}.{name}"] for name in ("worker_us_per_event", "redis_us_per_event")]
            table.add_row(f"{int(size):,}", f"{found[f'sizes.{size}.events_per_s']:,.0f}", *(f"{each:.1f}" for each in figures))
        console.print(table)


def _show_contest(console: Console, found: Figures) -> None:
    table = Table("the same events in the same run", show_edge=False)
    for title in ("events/s", "CPU us per event", "worker : this", "peak MB", "events"):
        table.add_column(title, justify="right")
    if "events_per_s" in found:
        figures = ("events_per_s", "worker_us_per_event", "run_rss_mb", "measured_events")
        rate, cpu, rss, events = (found[name] for name in figures)
        table.add_row(_WORKER, f"{rate:,.0f}", f"{cpu:.1f}", "", f"{rss:.0f}", f"{events:,.0f}")
    for peer in _inner(found, "peers"):
        rate, cpu, rss, events = (
            found[f"peers.{peer}.{name}"] for name in ("events_per_s", "cpu_us_per_event", "rss_mb", "events")
        )
        ratio = f"{found['events_per_s'] / rate:.3g} : 1" if "events_per_s" in found else ""
        table.add_row(peer, f"{rate:,.0f}", f"{cpu:.1f}", ratio, f"{rss:.0f}", f"{events:,.0f}")
    if table.row_count:
        console.print(table)


def _inner(found: Iterable[str], outer: str) -> list[str]:
    return list(dict.fromkeys(name.split(".")[1] for name in found if name.startswith(f"{outer}.")))
