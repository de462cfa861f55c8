"""What `explain` refuses before it reads anything."""

import pytest
from typer.testing import CliRunner

from worker.cli.commands import app


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((" ", "s1"), "BOOKING_ID"),
        (("b", "s" * 251), "SESSION_ID"),
        (("b", "s1", "--from", "yesterday"), "--from: write a time as"),
        (("b", "s1", "--to", "2026-11-22"), "--to: write a time as"),
    ],
)
def test_arguments_that_are_none(arguments: tuple[str, ...], words: str) -> None:
    done = CliRunner().invoke(app, ["explain", *arguments], env={"COLUMNS": "200"})
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr
