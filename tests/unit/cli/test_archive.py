"""The command `archive`: its arguments, and when it exits with what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiokafka import TopicPartition
from typer.testing import CliRunner

from worker.cli import archive as command
from worker.cli.commands import app
from worker.cli.long_commands import Ended
from worker.ops import archive_plan
from worker.ops.archive_format import Gap, Manifest, write_manifest
from worker.ops.archive_plan import Bound, Plan
from worker.read_model.operations import Operation, State
from worker.settings import Settings

SECOND = 1_000_000
GAP = Gap("attendance.events", 3, 5, 9)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What plans were asked for; each has nothing to write."""
    asked: list[tuple[Any, ...]] = []

    async def make_plan(settings: Any, folder: Path, *arguments: Any) -> Plan:
        asked.append(arguments)
        return Plan(folder, {TopicPartition(GAP.topic, GAP.partition): range(10)})

    monkeypatch.setattr(archive_plan, "make_plan", make_plan)
    # neither the environment nor a running dev
    monkeypatch.setattr(command, "service_settings", lambda: Settings(_env_file=None))  # type: ignore[call-arg]
    return asked


def ended(is_done: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operation ends so."""
    state = State.DONE if is_done else State.PAUSED
    operation = Operation("archive-1", "archive", "folder", state, {}, counts={"records": 0})
    monkeypatch.setattr(command, "run_operation", lambda *_: Ended(operation, is_done))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["F", "--resume", "x"],
        ["F", "--abort", "x"],
        ["--resume", "x", "--abort", "y"],
        ["--verify", "--resume", "x"],
        ["F", "--no-topic"],
        ["F", "--rotate-size", "5"],
        ["F", "--rotate-size", "5MB"],
        ["F", "--from", "monday"],
        ["F", "--to", "2026-11-22"],
        ["F", "--topic", "alerts"],
        ["F", "--compress", "lz4"],
    ],
)
def test_what_is_given_wrongly_is_bad_usage(arguments: list[str], plans: list[Any]) -> None:
    assert CliRunner().invoke(app, ["archive", *arguments]).exit_code == 2
    assert plans == []


def test_arguments_become_a_plan(tmp_path: Path, plans: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    ended(True, monkeypatch)
    folder = str(tmp_path / "new")
    assert CliRunner().invoke(app, ["archive", folder, "--yes"]).exit_code == 0
    window = ["--from", "7", "--to", "1970-01-01T00:00:02Z", "--topic", "events", "--compress", "gzip", "--rotate-size", "1GiB"]
    assert CliRunner().invoke(app, ["archive", folder, "--yes", *window]).exit_code == 0
    assert plans == [
        (["attendance.events", "attendance.bookings"], None, None, "zstd", 256 * 1024 * 1024),
        (["attendance.events"], Bound(7, is_time=False), Bound(2 * SECOND, is_time=True), "gzip", 1024**3),
    ]


def test_nothing_is_written_without_a_confirmation(tmp_path: Path, plans: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "run_operation", lambda *_: pytest.fail("it runs"))
    done = CliRunner().invoke(app, ["archive", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "--yes does without" in done.stderr


@pytest.mark.parametrize(
    ("is_done", "gaps", "options", "code", "last"),
    [
        (True, [], [], 0, "files: zstd"),
        (False, [], [], 130, "files: zstd"),
        (False, [GAP], [], 130, f"{GAP} were deleted"),
        (True, [GAP], [], 1, "gaps: 1; "),
        (True, [GAP], ["--allow-gap"], 0, f"{GAP} were deleted"),
    ],
)
def test_only_what_is_complete_exits_with_0(
    is_done: bool,
    gaps: list[Gap],
    options: list[str],
    code: int,
    last: str,
    tmp_path: Path,
    plans: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended(is_done, monkeypatch)
    write_manifest(tmp_path, Manifest(gaps=gaps))
    done = CliRunner().invoke(app, ["archive", str(tmp_path), "--yes", "--json", *options])
    assert done.exit_code == code
    shown = [{"topic": "attendance.events", "partition": 3, "begin": 5, "end": 9}] * len(gaps)
    assert json.loads(done.stdout)["gaps"] == shown
    assert done.stderr.splitlines()[-1].startswith(last)
