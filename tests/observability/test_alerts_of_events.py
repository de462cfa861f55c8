"""Each alert fires for what devices and producers send, or send no longer, and names its section of the runbook.

A real Prometheus scrapes a real worker and a real API, with the rules of deploy/prometheus whose durations are divided. Their
thresholds are as always: a minute is bad from 5 s on.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from tests.support.broken_log import bad_checksum, damage
from tests.support.observed import Program, observed
from tests.support.prometheus import Alert
from tests.support.services import Broker, KafkaCluster, Redis
from tests.support.services.processes import wait_until
from tests.support.serving import event
from tests.support.station import trim
from worker.kafka import create_producer


@pytest.mark.slow
def test_a_fleet_that_sends_rubbish_alerts(kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program) -> None:
    with observed(kafka, redis_server, tmp_path, program) as seen:
        sent = seen.system.run_cli("simulate", "--count", "4000", "--bad-payloads", "0.9", "--bookings", "200")
        assert sent.returncode == 0, sent.stderr
        alert = seen.until_firing("AttendanceDeadLetters", 40)
        assert "%" in alert.annotations["summary"]
        seen.until_firing("AttendanceMostEventsBad", 20)
        assert not seen.others("AttendanceDeadLetters", "AttendanceMostEventsBad")


@pytest.mark.slow
def test_a_device_that_falls_silent_alerts(kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program) -> None:
    """An hour is one minute here: the device reports for 15 s, and is silent for longer than the minute."""
    with observed(kafka, redis_server, tmp_path, program, factor=60) as seen:
        number = 0

        def report(*devices: str) -> None:
            nonlocal number
            number += 1
            seen.system.publish(
                seen.system.event({**event("check_in", f"BK-{number % 8}", "s"), "source": device}) for device in devices
            )

        def regular() -> bool:
            report("/gates/north", "/gates/south", "/gates/west")
            minutes = seen.prometheus.query("attendance:source_minutes:changes6h")
            return len(minutes) == 3 and min(minutes.values()) >= 12

        assert wait_until(regular, 60, step=0.5), seen.prometheus.query("attendance:source_minutes:changes6h")

        def fires() -> bool:
            report("/gates/north", "/gates/south")
            return "AttendanceDeviceSilent" in seen.names()

        assert wait_until(fires, 120, step=0.5), seen.described("AttendanceDeviceSilent")
        assert seen.until_firing("AttendanceDeviceSilent", 5).labels["source"] == "/gates/west"
        assert not seen.others("AttendanceDeviceSilent")

        def resolves() -> bool:
            report("/gates/north", "/gates/south", "/gates/west")
            return not seen.names()

        assert wait_until(resolves, 30, step=0.5), seen.described("none")


@pytest.mark.slow
def test_a_transaction_that_stays_open_alerts(kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program) -> None:
    with observed(kafka, redis_server, tmp_path, program) as seen:

        async def hold() -> Alert:
            producer = create_producer(seen.system.settings, transactional_id=seen.system.settings.topic_prefix)
            await producer.start()
            try:
                async with producer.transaction():
                    record = seen.system.event(event("check_in", "BK-1", "s"))
                    await producer.send_and_wait(record.topic, record.value, key=record.key, partition=record.partition)
                    return await asyncio.to_thread(seen.until_firing, "AttendanceRecordsHeld", 60)
            finally:
                await producer.stop()

        assert asyncio.run(hold()).labels["topic"] == "events"
        seen.until_quiet(30)
        assert not seen.others("AttendanceRecordsHeld")


@pytest.mark.slow
def test_a_batch_that_cannot_be_read_alerts(redis_server: Redis, tmp_path: Path, program: Program) -> None:
    with KafkaCluster(1) as kafka, observed(kafka, redis_server, tmp_path, program) as seen:
        record = seen.system.event(event("check_in", "BK-1", "s"))
        partition = record.partition or 0
        seen.worker.signal(signal.SIGSTOP)
        try:
            seen.system.publish([record])
            damage(kafka, record.topic, 0, bad_checksum, partition)
        finally:
            seen.worker.signal(signal.SIGCONT)
        alert = seen.until_firing("AttendancePartitionUnreadable", 40)
        assert (alert.labels["partition"], alert.labels["topic"]) == (str(partition), "events")
        assert not seen.others("AttendancePartitionUnreadable")
        asyncio.run(trim(kafka.bootstrap, record.topic, 1, partition))
        seen.until_quiet(40)
