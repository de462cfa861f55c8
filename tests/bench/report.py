"""The figures of a run, as a table for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from tests.bench.parts import Parts
from tests.bench.peers import Result
from tests.bench.subject import Measured
from tests.bench.workload import Workload

LATEST = Path(__file__).with_name("latest.json")

_ROWS = (
    ("events_per_s", "events/s, end to end", ",.0f"),
    ("worker_us_per_event", "worker CPU, us per event", ".1f"),
    ("redis_us_per_event", "Redis CPU, us per event", ".1f"),
    ("decode_us", "decode, us (best of 5)", ".2f"),
    ("fold_us", "order key and fold, us (best of 5)", ".2f"),
    ("bytes_per_attendance", "Redis bytes per attendance", ".0f"),
    ("bytes_per_booking", "Redis bytes per booking, before", ".0f"),
    ("rss_mb", "worker peak resident, MB", ".0f"),
    ("alerts_per_event", "alerts published per event", ".3f"),
)


def figures(measured: Measured, parts: Parts, peers: Mapping[str, Result]) -> dict[str, Any]:
    """What `latest.json` holds: floats, and the peers' figures under `peers`."""
    rate = measured.events_per_s
    return {
        "events_per_s": rate,
        "worker_us_per_event": measured.worker_us,
        "redis_us_per_event": measured.redis_us,
        **parts._asdict(),
        "bytes_per_attendance": measured.bytes_per_attendance,
        "bytes_per_booking": measured.bytes_per_booking,
        "rss_mb": measured.peak_rss_bytes / 1e6,
        "alerts_per_event": measured.alerts / measured.events,
        "measured_events": measured.events,
        "measured_seconds": measured.seconds,
        "ratio_stock_faust": rate / peers["stock_faust"].events_per_s,
        "ratio_raw_limit": rate / peers["raw_aiokafka"].events_per_s,
        "peers": {
            name: {"events_per_s": peer.events_per_s, "cpu_us_per_event": peer.cpu_us, "events": peer.events}
            for name, peer in peers.items()
        },
    }


def about(workload: Workload) -> dict[str, Any]:
    """What was measured on."""
    return {
        "events": workload.event_count,
        "bookings": workload.booking_count,
        "attendances": workload.attendances,
        "partitions": len(workload.events),
        "mean_event_bytes": workload.mean_event_bytes,
    }


def write(found: Mapping[str, Any], load: Mapping[str, Any], machine: Mapping[str, str]) -> None:
    """Writes `latest.json`."""
    document = {**found, "workload": load, "machine": machine}
    LATEST.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")


def show(found: Mapping[str, Any], load: Mapping[str, Any], machine: Mapping[str, str]) -> None:
    """Prints the tables."""
    console = Console(highlight=False)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), soft_wrap=True)
    console.print(
        f"{load['events']:,} events of {load['mean_event_bytes']:.0f} bytes, {load['bookings']:,} bookings, "
        f"{load['attendances']:,} attendances, {load['partitions']} partitions; one worker",
        soft_wrap=True,
    )
    table = Table("worker", show_edge=False)
    table.add_column("", justify="right")
    for key, title, form in _ROWS:
        table.add_row(title, format(found[key], form))
    console.print(table)
    console.print(_contest(found))


def _contest(found: Mapping[str, Any]) -> Table:
    table = Table("the same events in the same run", show_edge=False)
    for title in ("events/s", "CPU us per event", "worker : this", "events"):
        table.add_column(title, justify="right")
    rate, cpu = found["events_per_s"], found["worker_us_per_event"]
    table.add_row("attendance worker", f"{rate:,.0f}", f"{cpu:.1f}", "", f"{found['measured_events']:,}")
    for name, peer in found["peers"].items():
        ratio = rate / peer["events_per_s"]
        used = f"{peer['cpu_us_per_event']:.1f}"
        table.add_row(name, f"{peer['events_per_s']:,.0f}", used, f"{ratio:.3g} : 1", f"{peer['events']:,}")
    return table
