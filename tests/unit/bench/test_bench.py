"""What of the benchmark needs no services: its workload, its reading of results and logs, and its medians."""

import json
from collections import Counter
from pathlib import Path

import orjson
import pytest

from schemas.decoding.explain import decode
from schemas.events import DeadLetter
from schemas.times import parse_time
from tests.bench import million, report, workload
from tests.bench.peers import Result, Workplace
from tests.bench.programs import PEERS
from tests.bench.usage import UsageLog, Used
from worker.topics import partition_of

NOW = 1_800_000_000_000_000
HOUR = 3_600_000_000


def _documents(records):
    return [(partition, key, json.loads(value)) for partition, some in enumerate(records) for key, value in some]


def test_reference_events_are_recent_unordered_and_partitioned():
    made = workload.make(20_000, 4, NOW)
    events = _documents(made.events)
    ages = [NOW - parse_time(event["time"]) for _, _, event in events]
    kinds = Counter(event["type"] for _, _, event in events)

    assert (made.event_count, made.booking_count, len(events)) == (20_000, 10_000, 20_000)
    assert all(0 <= age < HOUR + 1_000_000 for age in ages)
    assert 0.45 < sum(age < HOUR / 2 for age in ages[:5000]) / 5000 < 0.55
    assert kinds["attendance.check_in"] + kinds["attendance.no_show"] == 20_000
    assert 0.18 < kinds["attendance.no_show"] / 20_000 < 0.22
    for partition, key, event in events:
        assert partition == partition_of(event["data"]["bookingId"], 4)
        assert key.decode() == event["data"]["bookingId"]


def test_events_name_sessions_that_their_booking_lists():
    made = workload.make(20_000, 4, NOW)
    listed = {
        booking["data"]["bookingId"]: {session["sessionId"] for session in booking["data"]["sessions"]}
        for _, _, booking in _documents(made.bookings)
    }

    assert all(event["data"]["sessionId"] in listed[event["data"]["bookingId"]] for _, _, event in _documents(made.events))
    assert {len(sessions) for sessions in listed.values()} == {4}


@pytest.mark.parametrize(("ordered", "least", "most"), [(False, 0.1, 0.5), (True, 0.0, 0.05)])
def test_the_losing_share_is_what_a_reader_of_the_topic_finds(ordered, least, most):
    made = workload.make(20_000, 1, NOW, ordered=ordered)
    newest, losing = {}, 0
    for _, _, event in _documents(made.events):
        pair, time = tuple(event["data"].values()), event["time"]
        losing += time < newest.get(pair, time)
        newest[pair] = max(time, newest.get(pair, time))

    assert made.losing == losing / 20_000
    assert made.attendances == len(newest)
    assert least <= made.losing <= most


def test_adversarial_events_are_of_all_kinds_and_bookings_change():
    made = workload.adversarial(20_000, 4, NOW)
    decoded = [decode(value, (), NOW // 1000, max_age=HOUR * 24) for records in made.events for _, value in records]
    kinds = Counter("bad" if isinstance(event, DeadLetter) else event.type for event in decoded)

    assert 0.025 < kinds["bad"] / 20_000 < 0.035
    assert 0.09 < kinds["attendance.set"] / 20_000 < 0.11
    assert 0.20 < kinds["attendance.participant_scanned"] / 20_000 < 0.24
    assert {event.reason for event in decoded if isinstance(event, DeadLetter)} == {
        "invalid-json",
        "unknown-type",
        "invalid-envelope",
        "invalid-field",
    }
    assert sum(map(len, made.changes)) == 1_000


def test_the_million_has_each_attendance_once_and_some_updates():
    made = workload.million(4_000, 1_000, 16, NOW)
    first = {tuple(event["data"].values()): event["time"] for _, _, event in _documents(made.inserts)}
    newer = [(tuple(event["data"].values()), event["time"]) for _, _, event in _documents(made.updates)]

    assert len(first) == sum(map(len, made.inserts)) == 4_000
    assert len(dict(newer)) == len(newer) == 1_000
    assert all(time > first[pair] for pair, time in newer)


def test_a_result_is_read_from_its_line_and_nothing_else():
    assert (
        Result.of('{"events": 10, "started_at": 1.5, "seconds": 2.0, "cpu_seconds": 0.5, "peak_rss_bytes": 7}').events_per_s
        == 5
    )
    for line in (
        "starting",
        '{"events": 10}',
        '{"events": 0, "started_at": 1.5, "seconds": 2.0, "cpu_seconds": 0.5, "peak_rss_bytes": 7}',
        "[1]",
    ):
        with pytest.raises(ValueError, match=r"result|nothing|Expecting"):
            Result.of(line)


def test_a_workplace_is_handed_over_as_options():
    options = Workplace("h:1", "redis://h:2/1", "t", 4, 10, 1.5).options()

    assert options[:4] == ["--broker", "h:1", "--redis", "redis://h:2/1"]
    assert options[4:] == ["--topic", "t", "--partitions", "4", "--events", "10", "--seconds", "1.5"]


def test_usage_is_taken_between_the_samples_around_it():
    log = UsageLog()
    log._times, log._used = [10.0, 11.0, 13.0], [Used(1.0, 5.0), Used(2.0, 5.0), Used(6.0, 9.0)]

    assert log.between(10.5, 12.0) == Used(2.5, 2.0)
    assert log.between(10.0, 13.0) == Used(5.0, 4.0)


def test_recovery_is_timed_from_the_last_assignment(tmp_path: Path):
    log = tmp_path / "log"
    line = "timestamp=2026-11-23T04:56:{}Z level=info event={} partitions={}\n"
    log.write_text(line.format("01.000000", "assigned", "[]"))
    assert million.recovery_seconds(log) is None
    log.write_text(line.format("01.000000", "assigned", '"[0, 1]"') + line.format("03.250000", "recovered", '"[0, 1]"'))
    assert million.recovery_seconds(log) == 2.25


def test_latest_json_holds_medians_and_no_figure_of_what_failed(tmp_path: Path):
    runs = []
    for rate in (100.0, 300.0, 200.0):
        peers = {f"reference.{peer}.events_per_s": 50.0 for peer in PEERS if peer != "quix_streams"}
        runs.append({"reference.worker.events_per_s": rate, "reference.worker.cpu_us": 10.0, **peers})
    path = tmp_path / "latest.json"
    report.write(runs, ["quix_streams FAILED: why"], [], {}, path)
    written = orjson.loads(path.read_bytes())

    assert written["reference"]["worker"]["events_per_s"] == 200
    assert written["ratios"] == {"stock_faust": 4, "kafka_streams": 4, "raw_aiokafka": 4}
    assert written["failed"] == ["quix_streams FAILED: why"]
    assert [run["reference.worker.events_per_s"] for run in written["runs"]] == [100, 300, 200]
