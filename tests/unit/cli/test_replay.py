"""`attendance replay` refuses what makes no sense, before it asks any service."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from worker.cli.commands import app


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--all for the whole topic"),
        (["--rate", "5"], "--all for the whole topic"),
        (["--from", "yesterday"], "--from"),
        (["--to", "-5"], "--to"),
        (["--all", "--from", "5"], "--all is the whole topic"),
        (["--booking", ""], "--booking"),
        (["--session", "a\nb"], "--session"),
        (["--type", "attendance.checkin"], "attendance.check_in"),
        (["--all", "--rate", "-1"], "--rate"),
        (["--reset"], "--reset concerns all events"),
        (["--all", "--reset", "--booking", "b1"], "--reset concerns all events"),
        (["--all", "--reset", "--dry-run"], "--reset concerns all events"),
        (["FILE", "--from", "5"], "are of the topic"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, list) else "",
)
def test_bad_usage_is_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    file = tmp_path / "events.jsonl"
    file.touch()
    given = [str(file) if each == "FILE" else each for each in arguments]
    done = CliRunner().invoke(app, ["replay", *given], env={"COLUMNS": "300", "TERM": "dumb"})
    assert done.exit_code == 2, done.output
    assert said in done.stderr
