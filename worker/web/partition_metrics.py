"""Gauges of the partitions, from Redis. Every series exists in every state: an unknown value is NaN, or an infinite age.

They are metric families, not `Gauge` objects: those would also be written to the files that several processes share.
"""

from collections.abc import Callable, Mapping
from math import nan

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from redis.exceptions import RedisError

from schemas.alerts import AlertKind
from schemas.times import parse_time
from worker.read_model.freshness import TOPICS, Partition
from worker.settings import installed_version
from worker.web.last_seen import Snapshot


def partition_families(snapshot: Snapshot) -> list[Metric]:
    """The gauges. While Redis is unavailable, ages keep growing from the last read ones."""
    partitions = snapshot.partitions
    is_redis_up = not isinstance(snapshot.error, RedisError | TimeoutError | OSError)
    return [
        _one("attendance_redis_up", "1 while Redis answers", is_redis_up),
        _labelled("attendance_api_build_info", "1, with the version", "version", {installed_version(): 1}),
        _one("attendance_partitions", "Partitions of the read models", len(partitions)),
        _one(
            "attendance_partitions_without_owner",
            "Partitions without a recent heartbeat of a worker",
            sum(not each.has_owner for each in partitions),
        ),
        _each(
            "attendance_partition_watermark_age_seconds",
            "Seconds since a worker wrote the partition's watermark; +Inf: never",
            partitions,
            lambda each: each.age,
        ),
        _each(
            "attendance_partition_freshness_seconds",
            "Seconds since the read models were known to hold everything that Kafka had; +Inf: never",
            partitions,
            lambda each: each.fresh_age,
        ),
        _each(
            "attendance_partition_kafka_age_seconds",
            "Seconds since Kafka confirmed the end of the partition's topics to its worker; +Inf: never",
            partitions,
            lambda each: each.kafka_age,
        ),
        _each(
            "attendance_partition_lag",
            "Records not applied yet; NaN: unknown, without a worker or Kafka",
            partitions,
            lambda each: nan if snapshot.error or each.lag is None else each.lag,
        ),
        _each(
            "attendance_partition_event_time_seconds",
            "Newest effective event time applied, since the epoch; NaN: none",
            partitions,
            lambda each: parse_time(each.event_time) / 1e6 if each.event_time else nan,
        ),
        _each(
            "attendance_partition_serving",
            "1 while readers are served",
            partitions,
            lambda each: each.state == "live" and not snapshot.error,
        ),
        _each_topic(
            "attendance_partition_held",
            "Offsets behind an open transaction",
            partitions,
            lambda each, topic: each.held(topic),
        ),
        _each_topic(
            "attendance_partition_unreadable",
            "1 while the partition is stopped at a record batch that cannot be read",
            partitions,
            lambda each, topic: each.unreadable(topic) is not None,
        ),
        _each(
            "attendance_partition_bad_events",
            "Of the last 1,000 events, those that became dead letters",
            partitions,
            lambda each: each.bad_events,
        ),
    ]


def open_alerts(counts: Mapping[AlertKind, int | None]) -> Metric:
    """The numbers of open alerts; None, unknown, becomes NaN."""
    values = {kind.value: nan if count is None else count for kind, count in counts.items()}
    return _labelled("attendance_open_alerts", "Mismatch alerts that are open; NaN: unknown", "kind", values)


def _labelled(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _one(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)


def _each(name: str, text: str, partitions: list[Partition], value: Callable[[Partition], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=("partition",))
    for each in partitions:
        family.add_metric((str(each.number),), value(each))
    return family


def _each_topic(name: str, text: str, partitions: list[Partition], value: Callable[[Partition, str], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=("partition", "topic"))
    for each in partitions:
        for topic in TOPICS:
            family.add_metric((str(each.number), topic), value(each, topic))
    return family
