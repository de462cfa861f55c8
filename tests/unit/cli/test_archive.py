"""The command `archive`: its arguments, and when it exits with what."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from worker.cli import archive as command
from worker.cli.commands import app
from worker.ops import archive as archive_ops
from worker.ops.archive import Bound, Plan, Result
from worker.ops.archive_format import Gap
from worker.settings import Settings

SECOND = 1_000_000
GAP = Gap("attendance.events", 3, 5, 9)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What plans were asked for; each has nothing to write."""
    asked: list[tuple[Any, ...]] = []

    async def make_plan(settings: Any, folder: Path, *arguments: Any) -> Plan:
        asked.append(arguments)
        return Plan(folder, {})

    monkeypatch.setattr(archive_ops, "make_plan", make_plan)
    # neither the environment nor a running dev
    monkeypatch.setattr(command, "service_settings", lambda: Settings(_env_file=None))  # type: ignore[call-arg]
    return asked


def result_is(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(*_: Any) -> Result:
        return result

    monkeypatch.setattr(archive_ops, "write", write)


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
    result_is(Result("archive-1"), monkeypatch)
    folder = str(tmp_path / "new")
    assert CliRunner().invoke(app, ["archive", folder, "--yes"]).exit_code == 0
    window = ["--from", "7", "--to", "1970-01-01T00:00:02Z", "--topic", "events", "--compress", "gzip", "--rotate-size", "1GiB"]
    assert CliRunner().invoke(app, ["archive", folder, "--yes", *window]).exit_code == 0
    assert plans == [
        (["attendance.events", "attendance.bookings"], None, None, "zstd", 256 * 1024 * 1024),
        (["attendance.events"], Bound(7, is_time=False), Bound(2 * SECOND, is_time=True), "gzip", 1024**3),
    ]


def test_nothing_is_written_without_a_confirmation(tmp_path: Path, plans: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(*_: Any) -> Result:
        raise AssertionError

    monkeypatch.setattr(archive_ops, "write", write)
    done = CliRunner().invoke(app, ["archive", str(tmp_path)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "--yes does without" in done.stderr


@pytest.mark.parametrize(
    ("result", "options", "code", "last"),
    [
        (Result("archive-1"), [], 0, "files: zstd"),
        (Result("archive-1", is_stopped=True), [], 130, "paused: `attendance archive --resume archive-1` goes on"),
        (Result("archive-1", gaps=[GAP], is_stopped=True), [], 130, "paused: "),
        (Result("archive-1", gaps=[GAP]), [], 1, "gaps: 1; "),
        (Result("archive-1", gaps=[GAP]), ["--allow-gap"], 0, f"{GAP} were deleted"),
    ],
)
def test_only_what_is_complete_exits_with_0(
    result: Result, options: list[str], code: int, last: str, tmp_path: Path, plans: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    result_is(result, monkeypatch)
    done = CliRunner().invoke(app, ["archive", str(tmp_path), "--yes", "--json", *options])
    assert done.exit_code == code
    assert json.loads(done.stdout)["gaps"] == [{"topic": "attendance.events", "partition": 3, "begin": 5, "end": 9}] * len(
        result.gaps
    )
    assert done.stderr.splitlines()[-1].startswith(last)
