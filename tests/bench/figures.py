"""The figures of a run, their medians over several runs, and the ratios that follow from these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from tests.bench.million import Held
from tests.bench.parts import Services
from tests.bench.peers import Result
from tests.bench.subject import Measured
from tests.bench.usage import Used

Figures = dict[str, float]
"""Names have dots: `<workload>.<line>.<figure>`, `freshness.<figure>`, `million.<figure>`, `sizes.<events>.<figure>`,
`parts.<figure>`. What was not measured is absent."""


class Ratio(NamedTuple):
    """One figure over another of the same run."""

    name: str
    title: str
    over: str
    under: str


_RATE, _CPU, _ALL_CPU = "events_per_s", "cpu_us", "all_cpu_us"
_WORKER, _ORDERED, _PYTHON, _JOB = "reference.worker", "ordered.worker", "reference.worker_python", "reference.worker_job"
_GETMANY = "million.getmany_records_per_s"
_STREAMS, _ORDERED_STREAMS = "reference.kafka_streams", "ordered.kafka_streams"


def _ratio(name: str, title: str, over: str, under: str, figure: str) -> Ratio:
    return Ratio(name, title, f"{over}.{figure}", f"{under}.{figure}")


RATIOS = (
    _ratio("kafka_streams", "events/s over Kafka Streams'", _WORKER, _STREAMS, _RATE),
    _ratio("kafka_streams_ordered", "the same, events in order", _ORDERED, _ORDERED_STREAMS, _RATE),
    _ratio("job_kafka_streams", "the peers' job only, events/s over Kafka Streams'", _JOB, _STREAMS, _RATE),
    _ratio("cpu_kafka_streams", "CPU per event over Kafka Streams', process alone", _WORKER, _STREAMS, _CPU),
    _ratio("cpu_kafka_streams_ordered", "the same, events in order", _ORDERED, _ORDERED_STREAMS, _CPU),
    _ratio("all_cpu_kafka_streams", "CPU per event over Kafka Streams', with Redis and broker", _WORKER, _STREAMS, _ALL_CPU),
    _ratio("all_cpu_kafka_streams_ordered", "the same, events in order", _ORDERED, _ORDERED_STREAMS, _ALL_CPU),
    _ratio("job_all_cpu_kafka_streams", "the same, the peers' job only", _JOB, _STREAMS, _ALL_CPU),
    _ratio("stock_faust", "events/s over stock Faust's", _WORKER, "reference.stock_faust", _RATE),
    _ratio("quix_streams", "events/s over Quix Streams'", _WORKER, "reference.quix_streams", _RATE),
    _ratio("raw_aiokafka", "events/s over raw getmany with parsing", _WORKER, "reference.raw_aiokafka", _RATE),
    _ratio("python_stock_faust", "Python core, events/s over stock Faust's", _PYTHON, "reference.stock_faust", _RATE),
    _ratio("python_kafka_streams", "Python core, events/s over Kafka Streams'", _PYTHON, _STREAMS, _RATE),
    _ratio("python_kafka_streams_ordered", "the same, events in order", "ordered.worker_python", _ORDERED_STREAMS, _RATE),
    _ratio("adversarial_cpu", "adversarial events, worker CPU over the reference's", "adversarial.worker", _WORKER, _CPU),
    _ratio("adversarial_all_cpu", "the same, with Redis and broker", "adversarial.worker", _WORKER, _ALL_CPU),
    Ratio("insert_hset", "Redis, insert over a bare HSET in Lua", "million.redis_us_per_insert", "million.hset_us_per_insert"),
    Ratio("update_hset", "Redis, update over a bare HSET in Lua", "million.redis_us_per_update", "million.hset_us_per_update"),
    Ratio("recovery_getmany", "recovery over getmany of the changelogs", "million.recovery_records_per_s", _GETMANY),
    Ratio("growth", "worker CPU per event, 1,000,000 events over 100,000", "sizes.1000000.cpu_us", "sizes.100000.cpu_us"),
)


def of_worker(line: str, measured: Measured) -> Figures:
    """What a worker did; `line` is `<workload>.<name>`."""
    span = measured.span
    found = {
        **_of_line(line, span.events, span.seconds, span.worker_us, span.redis_us, span.kafka_us, measured.peak_rss_bytes),
        f"{line}.alerts_per_event": measured.alerts / span.events,
        f"{line}.redis_bytes_per_attendance": measured.bytes_per_attendance,
        f"{line}.redis_bytes_per_booking": measured.bytes_per_booking,
    }
    if measured.fresh is not None:
        found |= {f"freshness.{name}": value for name, value in measured.fresh._asdict().items()}
    return found


def of_peer(line: str, result: Result, used: Used) -> Figures:
    """What a peer did; `line` is `<workload>.<name>`."""
    redis, kafka = (seconds / result.events * 1e6 for seconds in used)
    return _of_line(line, result.events, result.seconds, result.cpu_us, redis, kafka, result.peak_rss_bytes)


def _of_line(line: str, events: int, seconds: float, cpu: float, redis: float, kafka: float, rss: int) -> Figures:
    """CPU is microseconds per event."""
    return {
        f"{line}.events_per_s": events / seconds,
        f"{line}.cpu_us": cpu,
        f"{line}.redis_us": redis,
        f"{line}.kafka_us": kafka,
        f"{line}.all_cpu_us": cpu + redis + kafka,
        f"{line}.rss_mb": rss / 1e6,
        f"{line}.events": events,
        f"{line}.seconds": seconds,
    }


def of_parts(parts: Services) -> Figures:
    """What parts of the worker cost alone."""
    return {f"parts.{name}": value for name, value in parts._asdict().items()}


def of_million(held: Held) -> Figures:
    """What was found at a million attendances."""
    found = {
        "redis_us_per_insert": held.insert.redis_us,
        "redis_us_per_update": held.update.redis_us,
        "bytes_per_attendance": held.bytes_per_attendance,
        "recovery_records_per_s": held.recovery_records_per_s,
        "getmany_records_per_s": held.getmany_records_per_s,
        "recovery_records": held.recovered_records,
        "recovery_seconds": held.recovery_seconds,
        "rss_mb": held.peak_rss_bytes / 1e6,
        "rss_at_end_mb": held.rss_bytes / 1e6,
        "insert_events_per_s": held.insert.events_per_s,
        "insert_worker_us": held.insert.worker_us,
        "update_worker_us": held.update.worker_us,
    }
    if held.floor is not None:
        found |= {"hset_us_per_insert": held.floor.insert_us, "hset_us_per_update": held.floor.update_us}
    return {f"million.{name}": value for name, value in found.items()}


def of_size(events: int, measured: Measured) -> Figures:
    """What an event costs when there are so many."""
    span = measured.span
    return {
        f"sizes.{events}.cpu_us": span.worker_us,
        f"sizes.{events}.redis_us": span.redis_us,
        f"sizes.{events}.events_per_s": span.events_per_s,
    }


def medians(runs: Sequence[Figures]) -> Figures:
    """The median of each figure over the runs that have it."""
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: median(run[name] for run in runs if name in run) for name in names}


def ratios(found: Figures) -> dict[str, float]:
    """Those of `RATIOS` of which both figures are there."""
    return {each.name: found[each.over] / found[each.under] for each in RATIOS if {each.over, each.under} <= found.keys()}


def inner(found: Iterable[str], outer: str) -> list[str]:
    """The names that follow `outer.`."""
    start = f"{outer}."
    return list(dict.fromkeys(name.removeprefix(start).split(".")[0] for name in found if name.startswith(start)))
