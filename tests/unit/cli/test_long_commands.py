"""The plan, the question, the progress and the summary of commands that take long."""

from __future__ import annotations

import io
import json
import sys

import pytest

from worker.cli import long_commands
from worker.cli.long_commands import ProgressReport, confirm, print_summary


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_nothing_is_done_without_a_terminal_to_ask_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(SystemExit) as exit_:
        confirm({"events": 3}, yes=False)
    assert exit_.value.code == 1
    assert capsys.readouterr().err.splitlines() == [
        "events: 3",
        "nothing was done: there is no terminal to ask on; --yes does without",
    ]


@pytest.mark.parametrize(("answer", "goes_on"), [("y", True), ("n", False), ("", False)])
def test_a_person_is_asked_on_a_terminal(
    answer: str, goes_on: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer + "\n"))
    if goes_on:
        confirm({"events": 3}, yes=False)
    else:
        with pytest.raises((SystemExit, long_commands.typer.Abort)):  # type: ignore[attr-defined]
            confirm({"events": 3}, yes=False)
    assert "events: 3\ncontinue?" in capsys.readouterr().err


def test_with_yes_nobody_is_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    confirm({"target": "a\x1b[2Jb"}, yes=True)
    assert capsys.readouterr().err == "target: a\\x1b[2Jb\n"


def test_progress_without_a_terminal_is_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [100.0]
    monkeypatch.setattr(long_commands, "monotonic", lambda: clock[0])
    with ProgressReport("events", 10_000) as progress:
        for seconds, done in ((1, 500), (10, 5_000), (15, 7_500), (20, 10_000)):
            clock[0] = 100.0 + seconds
            progress.update(done)
    assert capsys.readouterr().err.splitlines() == [
        "5,000 of 10,000 events (50 %), 500/s, 10 s left",
        "10,000 of 10,000 events (100 %), 500/s, 0 s left",
    ]


def test_the_summary_is_for_people_or_programs(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary({"read": 3, "applied": 2}, as_json=False)
    print_summary({"read": 3, "applied": 2}, as_json=True)
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == ["read: 3", "applied: 2"]
    assert json.loads(shown[2]) == {"read": 3, "applied": 2}
