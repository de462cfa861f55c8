"""The commands (schemas/README.md): what they answer, and that what they refuse is one line that says what to do."""

import ast
import asyncio
import json
import os
import pty
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from subprocess import PIPE, CompletedProcess, Popen, run
from typing import Any

import pytest

from schemas.attendance import attendance_id, guid
from tests.support.services import Broker, Redis
from tests.support.services.forwarding import forwarding
from tests.support.services.ports import ReservedPort
from tests.support.services.processes import wait_until
from tests.support.system import ROOT, System, attendances_of, running
from worker.read_model.reader import AttendanceReader

NOW, THEN = "2026-11-22T10:00:00Z", "2020-01-01T10:00:00Z"
ANSWERS = (["topics", "check"], ["topics", "create"], ["publish"], ["worker"], ["doctor"])


@pytest.fixture(scope="module")
def served(kafka: Broker, redis_server: Redis) -> Iterator[System]:
    """A worker, and what three bookings came to."""
    with running(System(kafka, redis_server)) as system:
        sessions = [{"sessionId": "yoga", "startsAt": NOW}, {"sessionId": "boxing"}]
        data = {"bookingId": "b1", "numberOfParticipants": 1, "sessions": sessions}
        system.publish([system.booking(_event("booking.upserted", data))])
        came = {"bookingId": "b1", "sessionId": "yoga", "numberOfAttendees": 3}
        missed = [{"bookingId": booking, "sessionId": "yoga"} for booking in ("b2", "b3")]
        events = [_event("attendance.check_in", came), *(_event("attendance.no_show", each) for each in missed)]
        system.publish(system.event(each) for each in events)
        system.until_applied()
        yield system


@pytest.fixture
def refused() -> Iterator[int]:
    """A port where nobody answers."""
    port = ReservedPort()
    yield port.number
    port.release()


def _event(kind: str, data: dict[str, Any], time: str = NOW) -> dict[str, Any]:
    return {"specversion": "1.0", "id": "1", "source": "k", "type": kind, "time": time, "data": data}


def _check_in(booking: str, time: str = NOW, **data: Any) -> dict[str, Any]:
    return _event("attendance.check_in", {"bookingId": booking, "sessionId": "s1", **data}, time)


def _lines(*documents: Any) -> bytes:
    return b"\n".join(each if isinstance(each, bytes) else json.dumps(each).encode() for each in documents) + b"\n"


def _one_line(done: CompletedProcess[str], *parts: str, code: int = 1) -> None:
    assert done.returncode == code, (done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for part in parts:
        assert part in done.stderr


def _refused(done: CompletedProcess[str], *parts: str) -> None:
    """Bad usage: what is wrong stands in a frame."""
    assert (done.returncode, done.stdout) == (2, "")
    for part in parts:
        assert part in done.stderr


def _jsons(done: CompletedProcess[str]) -> list[Any]:
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _statuses(system: System, booking: str) -> dict[str, str]:
    return {each["sessionId"]: each["status"] for each in system.read(lambda reader: attendances_of(reader, bookingId=booking))}


def test_the_version_and_the_completion_of_a_shell(kafka: Broker, redis_server: Redis) -> None:
    system = System(kafka, redis_server)
    done = system.run_cli("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"attendance {version('attendance-worker')}\n", "")
    done = system.run_cli(_ATTENDANCE_COMPLETE="complete_bash", COMP_WORDS="attendance to", COMP_CWORD="1")
    assert (done.returncode, done.stdout.split()) == (0, ["topics", "tokens"])


def test_an_unknown_variable_is_named_and_the_command_runs(served: System) -> None:
    done = served.run_cli("topics", "check", ATTENDANCE_TOPIC_PREFX="x")
    assert done.returncode == 0
    assert done.stderr == "ATTENDANCE_TOPIC_PREFX: there is no such setting; did you mean ATTENDANCE_TOPIC_PREFIX?\n"


def test_publish_reads_files_and_stdin(served: System, tmp_path: Path) -> None:
    booking = {"bookingId": " p0 ", "numberOfParticipants": 1, "sessions": [{"sessionId": "listed"}]}
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_bytes(_lines(_check_in("p1"), b"", _check_in(" p2 "), _event("booking.upserted", booking)))
    two.write_bytes(_lines(_check_in("p3"))[:-1] + b"\r\n")
    done = served.run_cli("publish", str(one), str(two), "-", stdin=_lines(_check_in("p4")))
    assert done.returncode == 0, done.stderr
    assert "5" in done.stderr
    served.until_applied()
    assert [_statuses(served, f"p{number}") for number in range(1, 5)] == [{"s1": "ATTENDED"}] * 4
    assert served.read(lambda reader: reader.session("listed"))["bookings"] == 1  # type: ignore[index]
    keys = {record.key for topic in served.topics[:2] for record in served.consume(topic)}
    assert {b"p0", b"p1", b"p2", b"p3", b"p4"} <= keys


def test_publish_sends_each_line_at_once_and_ends_at_ctrl_c(served: System) -> None:
    environment = {**os.environ, **served.environment}
    command = [sys.executable, "-m", "worker", "publish", "-"]
    with Popen(command, stdin=PIPE, stderr=PIPE, env=environment, cwd=ROOT) as publishing:
        assert publishing.stdin is not None
        for number in (1, 2):
            publishing.stdin.write(_lines(_check_in(f"piped-{number}")))
            publishing.stdin.flush()
            assert wait_until(lambda n=number: _statuses(served, f"piped-{n}") == {"s1": "ATTENDED"}, 30)  # type: ignore[misc]
        publishing.send_signal(signal.SIGINT)
        # with its input open: the end of the input would end it too
        assert publishing.wait(30) == 130
        assert publishing.stderr is not None
        assert publishing.stderr.read() == b"published 2 events\n"


def test_publish_shows_the_share_that_is_sent_on_a_terminal(served: System, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(_lines(_check_in("shown-1"), _check_in("shown-2")))
    ours, terminal = pty.openpty()
    environment = {**os.environ, **served.environment, "TERM": "xterm", "COLUMNS": "80"}
    with Popen(
        [sys.executable, "-m", "worker", "publish", str(file)], stderr=terminal, env=environment, cwd=ROOT
    ) as publishing:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # the end of a terminal is an error
            while part := os.read(ours, 65536):
                shown += part
        os.close(ours)
    assert publishing.returncode == 0, shown
    assert b"published 2 (100 %)" in shown
    assert shown.rstrip().endswith(b"published 2 events")


_CTRL_C_AT_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from worker.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "aiokafka", "worker.cli.reads"])
def test_ctrl_c_while_modules_load_shows_no_traceback(module: str) -> None:
    command = [sys.executable, "-c", _CTRL_C_AT_IMPORT.format(module=module), "--help"]
    done = run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def _overlong() -> bytes:
    return json.dumps({**_check_in("x"), "pad": "x" * 65_536}).encode()


BAD_LINES: list[tuple[Any, str]] = [
    (b"{", "JSON"),
    (b"[1]", "invalid-json"),
    (b"\xff\xfe", "JSON"),
    (_check_in("x", time="today"), "time"),
    (_check_in("x", numberOfAttendees=-1), "data.numberOfAttendees"),
    (_check_in("x", time=THEN), "time-too-old"),
    (_event("booking.upserted", {"bookingId": ["x"]}), "data.bookingId"),
    (_event("no.such", {}), "unknown-type"),
    (_overlong(), "too-large"),
]
ODD_TYPES: list[tuple[Any, str]] = [(b'{"type":[]}', "invalid-envelope"), (b'{"type":{},"time":[]}', "invalid-envelope")]


@pytest.mark.parametrize("bad", [BAD_LINES, ODD_TYPES], ids=["usual", "odd types"])
def test_publish_names_bad_lines(served: System, tmp_path: Path, bad: list[tuple[Any, str]]) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(_lines(_check_in("good"), b"", *(line for line, _ in bad), _check_in("good")))
    done = served.run_cli("publish", str(file))
    assert (done.returncode, done.stdout) == (1, "")
    named = [line for line in done.stderr.splitlines() if line.startswith(f"{file}:")]
    assert len(named) == len(bad), done.stderr
    for number, (line, (_, said)) in enumerate(zip(named, bad, strict=True), 3):
        assert line.startswith(f"{file}:{number}: ")
        assert said in line
    assert len(done.stderr.splitlines()) <= len(bad) + 1  # and how many were published


def test_publish_takes_old_events_with_backfill_only(served: System, tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    file.write_bytes(_lines(_check_in("backfilled", THEN)))
    assert served.run_cli("publish", str(file)).returncode == 1
    done = served.run_cli("publish", "--backfill", str(file))
    assert done.returncode == 0, done.stderr
    served.until_applied()
    (attendance,) = served.read(lambda reader: attendances_of(reader, bookingId="backfilled"))
    assert attendance["updatedDate"] == "2020-01-01T10:00:00.000Z"


def test_query_prints_matching_attendances(served: System) -> None:
    identity = guid(attendance_id("b1", "yoga"))
    attendance = {"id": identity, "bookingId": "b1", "sessionId": "yoga", "status": "ATTENDED", "numberOfAttendees": 3}
    attendance |= {"updatedDate": "2026-11-22T10:00:00.000Z", "source": "k"}
    assert _jsons(served.run_cli("query", "--id", identity, "--json")) == [attendance]
    assert _jsons(served.run_cli("query", "--booking", "b1", "--json")) == [attendance]
    of_session = _jsons(served.run_cli("query", "--session", "yoga", "--json"))
    assert attendance in of_session
    assert {each["bookingId"] for each in of_session} == {"b1", "b2", "b3"}
    assert _jsons(served.run_cli("query", "--session", "none", "--json")) == []
    table = served.run_cli("query", "--session", "yoga", COLUMNS="200")
    assert (table.returncode, table.stderr) == (0, "")
    assert all(part in table.stdout for part in ("bookingId", "b1", "b2", "b3", "NOT_ATTENDED", identity))
    some = served.run_cli("query", "--session", "yoga", "--sort", "bookingId:desc", "--limit", "2", "--json")
    assert [json.loads(line)["bookingId"] for line in some.stdout.splitlines()] == ["b3", "b2"]
    more, cursor = some.stderr.strip().split("--cursor ")
    assert more.startswith("more attendances match")
    assert _jsons(served.run_cli("query", "--cursor", cursor, "--json")) == [attendance]
    least = json.dumps({"numberOfAttendees": {"$gte": 3}})
    both = _jsons(served.run_cli("query", "--session", "yoga", "--status", "ATTENDED", "--filter", least, "--json"))
    assert both == [attendance]
    for unknown in (guid(attendance_id("b1", "boxing")), "nonsense"):
        _one_line(served.run_cli("query", "--id", unknown), unknown)


def test_session_and_booking_print_counts(served: System) -> None:
    (tally,) = _jsons(served.run_cli("session", "yoga", "--json"))
    counts = {"bookings": 3, "attended": 1, "notAttended": 2, "notSet": 0, "attendees": 3, "expectedParticipants": 1}
    assert {name: tally[name] for name in counts} == counts
    assert tally["startsAt"] == "2026-11-22T10:00:00.000Z"
    (summary,) = _jsons(served.run_cli("booking", "b1", "--json"))
    assert summary["bookingId"] == "b1"
    assert summary["noShowRate"] == 0
    assert "notAttended: 2" in served.run_cli("session", "yoga").stdout
    assert "noShowRate" in served.run_cli("booking", "b2").stdout
    _one_line(served.run_cli("session", "nowhere"), "nowhere")
    _one_line(served.run_cli("booking", "nobody", "--json"), "nobody")


def test_sessions_are_listed_by_their_start(served: System) -> None:
    window = ("--from", NOW, "--before", "2026-11-22T10:00:01Z")
    (tally,) = _jsons(served.run_cli("sessions", *window, "--json"))
    assert (tally["sessionId"], tally["bookings"], tally["startsAt"]) == ("yoga", 3, "2026-11-22T10:00:00.000Z")
    everything = _jsons(served.run_cli("sessions", "--json"))
    assert everything[0]["sessionId"] == "yoga"
    assert "boxing" in [each["sessionId"] for each in everything[1:]]
    first = served.run_cli("sessions", "--limit", "1", "--json")
    words, _, cursor = first.stderr.strip().rpartition(" ")
    assert words == "more sessions follow: --cursor"
    rest = served.run_cli("sessions", "--json", "--cursor", cursor)
    assert _jsons(rest) == everything[1:]
    assert served.run_cli("sessions", "--running", "--from", THEN).returncode == 0
    table = served.run_cli("sessions", "--latest-first").stdout
    assert "yoga" in table
    assert "unknown" in table
    _refused(served.run_cli("sessions", "--from", "today"), "--from", "2026-11-22T10:00:00Z")
    _refused(served.run_cli("sessions", "--running", "--cursor", cursor), "--running")
    _refused(served.run_cli("sessions", "--cursor", "x"), "cursor")


def test_a_session_shows_its_roster(served: System) -> None:
    roster = _jsons(served.run_cli("session", "yoga", "--roster", "--json"))
    assert [(each["bookingId"], each["state"]) for each in roster] == [
        ("b1", "ATTENDED"),
        ("b2", "NOT_ATTENDED"),
        ("b3", "NOT_ATTENDED"),
    ]
    assert roster[0]["attendance"]["numberOfAttendees"] == 3
    some = served.run_cli("session", "yoga", "--roster", "--state", "NOT_ATTENDED", "--limit", "1", "--json")
    assert json.loads(some.stdout) == roster[1]
    cursor = some.stderr.strip().rpartition(" ")[2]
    assert _jsons(served.run_cli("session", "yoga", "--roster", "--cursor", cursor, "--json")) == [roster[2]]
    ordered = served.run_cli("session", "yoga", "--roster", "--order", "status", "--prefix", "b2", COLUMNS="200").stdout
    assert "NOT_ATTENDED" in ordered
    assert "b1" not in ordered
    assert _jsons(served.run_cli("session", "yoga", "--roster", "--alerts", "--json")) == roster[:1]
    (listed,) = _jsons(served.run_cli("session", "boxing", "--roster", "--json"))
    assert (listed["bookingId"], listed["state"], listed["attendance"]) == ("b1", "NO_ATTENDANCE", None)
    _one_line(served.run_cli("session", "nowhere", "--roster"), "nowhere")
    _refused(served.run_cli("session", "yoga", "--state", "ATTENDED"), "--roster")
    _refused(served.run_cli("session", "boxing", "--roster", "--cursor", cursor), "cursor")


def test_alerts_prints_those_of_its_filters(served: System) -> None:
    (alert,) = _jsons(served.run_cli("alerts", "--booking", "b1", "--json"))
    assert (alert["kind"], alert["bookingId"], alert["sessionId"]) == ("PARTICIPANTS_EXCEEDED", "b1", "yoga")
    assert _jsons(served.run_cli("alerts", "--kind", "PARTICIPANTS_EXCEEDED", "--session", "yoga", "--json")) == [alert]
    assert _jsons(served.run_cli("alerts", "--kind", "CLOCK_AHEAD", "--booking", "b1", "--json")) == []
    table = served.run_cli("alerts", "--session", "yoga", COLUMNS="300")
    assert (table.returncode, table.stderr) == (0, "")
    assert all(part in table.stdout for part in ("PARTICIPANTS_EXCEEDED", "b1", alert["message"]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["query"],
        ["query", "--filter", "{"],
        ["query", "--limit", "5", "--sort", "nothing"],
        ["alerts", "--kind", "NO_SUCH"],
        ["alerts", "--limit", "0"],
    ]
    + [["publish"], ["publish", "/no/such/file"], ["session"], ["booking", "a", "b"], ["no-such"], ["worker", "--no-such"]]
    + [["topics", "no-such"], ["dev", "--once"], ["simulate", "--count", "many"]],
    ids=" ".join,
)
def test_bad_usage_is_exit_code_2(served: System, arguments: list[str]) -> None:
    done = served.run_cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr


def test_the_doctor_finds_nothing_in_a_healthy_system(served: System) -> None:
    done = served.run_cli("doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"ATTENDANCE_TOPIC_PREFIX={served.settings.topic_prefix}" in done.stdout
    assert "BAD" not in done.stdout
    (said,) = _jsons(served.run_cli("doctor", "--json"))
    assert all(finding["ok"] for finding in said["findings"])
    assert {"broker", "topics", "redis"} <= {finding["what"] for finding in said["findings"]}


@pytest.mark.parametrize("arguments", [each for each in ANSWERS if each != ["worker"]], ids=" ".join)
def test_an_unavailable_broker_is_one_line(served: System, refused: int, arguments: list[str]) -> None:
    more = ["-"] if arguments == ["publish"] else []
    there = {"ATTENDANCE_BROKER": f"kafka://127.0.0.1:{refused}"}
    done = served.run_cli(*arguments, *more, stdin=_lines(_check_in("b9")), **there)
    if arguments == ["doctor"]:
        assert (done.returncode, done.stderr) == (1, "")
        assert f"127.0.0.1:{refused}" in done.stdout
    else:
        _one_line(done, "ATTENDANCE_BROKER", f"127.0.0.1:{refused}")


@pytest.mark.parametrize(
    "arguments", [["publish", "-"], ["simulate", "--count", "3"], ["replay", "--all", "--yes"]], ids=" ".join
)
def test_a_topic_that_is_missing_is_named(served: System, arguments: list[str]) -> None:
    """aiokafka waits for it to come, and then says that there is no broker."""
    done = served.run_cli(*arguments, stdin=_lines(_check_in("b9")), ATTENDANCE_TOPIC_PREFIX="no-such")
    _one_line(done, "ATTENDANCE_TOPIC_PREFIX: Kafka has no topic no-such.")


@pytest.mark.parametrize("arguments", [["query", "--booking", "b1"], ["session", "s"], ["alerts"]], ids=" ".join)
def test_a_redis_that_refuses_is_not_away(served: System, arguments: list[str]) -> None:
    address = f"redis://joe:hidden@{served.settings.redis_servers[0][0]}:{served.settings.redis_servers[0][1]}/0"
    done = served.run_cli(*arguments, ATTENDANCE_REDIS=address)
    _one_line(done, "ATTENDANCE_REDIS", "refuses this client")
    assert "hidden" not in done.stderr


@pytest.mark.parametrize("arguments", [["query", "--booking", "b1"], ["session", "s"], ["alerts"], ["doctor"]], ids=" ".join)
def test_an_unavailable_redis_is_one_line(served: System, refused: int, arguments: list[str]) -> None:
    done = served.run_cli(*arguments, ATTENDANCE_REDIS=f"redis://joe:hidden@127.0.0.1:{refused}/0")
    assert "hidden" not in done.stdout + done.stderr
    if arguments == ["doctor"]:
        assert (done.returncode, done.stderr) == (1, "")
        assert f"127.0.0.1:{refused}" in done.stdout
    else:
        _one_line(done, "ATTENDANCE_REDIS", f"127.0.0.1:{refused}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PARTITIONS", "none"),
        ("BROKER", "http://h"),
        ("REDIS", "redis://joe:hidden@host:port"),
        ("REDIS", "http://joe:hidden@h"),
    ]
    + [("CLOCK_TOLERANCE", "soon"), ("MAX_EVENT_AGE", "99999999999d")],
)
def test_a_bad_setting_is_one_line(served: System, name: str, value: str) -> None:
    done = served.run_cli("doctor", **{f"ATTENDANCE_{name}": value})
    _one_line(done, f"ATTENDANCE_{name}")
    assert "hidden" not in done.stderr


def test_a_guid_is_found_however_it_is_written(served: System) -> None:
    """An operator pastes it in upper case, or with a blank from a spreadsheet: the API finds it, and so do the commands."""
    name = "88214716-6ed1-4273-b089-8015c4ab2f4b"
    data = {"bookingId": name.upper(), "sessionId": name, "status": "ATTENDED", "numberOfAttendees": 0}
    served.run_cli("publish", "-", stdin=_lines(_event("attendance.set", data)))
    served.until_applied()
    pasted = f" {name.upper()} "
    for command in (["session", pasted], ["booking", pasted]):
        assert served.run_cli(*command).returncode == 0, command
    for command in (["alerts", "--booking", pasted], ["alerts", "--session", pasted], ["query", "--booking", pasted]):
        assert len(served.run_cli(*command, "--json").stdout.splitlines()) == 1, command


def test_a_broker_of_ipv6_is_connected_to(served: System) -> None:
    """The broker is reached at [::1] and sends its clients on to where it listens."""
    host, _, port = served.settings.bootstrap_servers[0].rpartition(":")
    with forwarding("::1", host, int(port)) as at:
        done = served.run_cli("topics", "check", ATTENDANCE_BROKER=f"kafka://[::1]:{at}")
        assert done.returncode == 0, done.stderr
        worker = served.start_worker(ATTENDANCE_BROKER=f"kafka://[::1]:{at}")
        assert wait_until(lambda: "event=assigned" in worker.said() or not worker.running, 30)
        assert worker.running, worker.said()
        assert worker.terminate() == 0
        served.until_serving()


def test_the_example_of_the_reader_runs(served: System) -> None:
    no_show = {**_event("attendance.no_show", {"bookingId": "absent", "sessionId": "ex"}), "time": NOW}
    served.publish([served.event(no_show)])
    served.until_applied()
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for default, here in (
        ('"redis://localhost:6379/0"', repr(served.settings.redis_url())),
        ('"attendance"', repr(served.settings.redis_namespace)),
    ):
        assert example.count(default) == 1
        example = example.replace(default, here)
    done = run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    count, bookings = done.stdout.splitlines()
    assert int(count) == len(ast.literal_eval(bookings)) > 0
    assert "absent" in bookings


def test_a_reader_says_how_an_address_is_written() -> None:
    async def connect(url: str) -> None:
        async with AttendanceReader.connect(url):
            raise AssertionError(url)

    for url in ("localhost", "http://localhost", "redis://:p#w@localhost", "redis+cluster://localhost:1/3"):
        with pytest.raises(ValueError, match=r"write|percent-encode"):
            asyncio.run(connect(url))
