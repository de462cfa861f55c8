"""Beside ``--resume`` and ``--abort`` every long command takes the same: an operation keeps what it was begun with."""

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from worker.cli.commands import app

#: What concerns how the process runs: it goes with --resume too.
WITH_RESUME = {"replay": {"--rate"}, "archive": {"--allow-gap"}, "rebuild": {"--accept", "--no-switch"}}
VALUES = {"--topic": "events", "--reason": "too-large", "--state": "all", "--compress": "gzip", "--rotate-size": "1MiB"}
#: Nobody answers there.
AWAY = {"ATTENDANCE_BROKER": "kafka://127.0.0.1:1", "ATTENDANCE_REDIS": "redis://127.0.0.1:1", "COLUMNS": "300", "TERM": "dumb"}


def long_commands(group: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Each command that can be resumed, by its name."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from long_commands(command, (*names, name))
        elif any("--resume" in each.opts for each in command.params):
            yield " ".join((*names, name)), command


COMMANDS = dict(long_commands(typer.main.get_command(app)))
BESIDE = [
    (name, begin, each)
    for name, command in COMMANDS.items()
    for begin in ("--resume", "--abort")
    for each in command.params
    if not {begin, "--yes", "--json", "--help"} & {*each.opts}
]


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, arguments, env=AWAY)


def given(parameter: Any) -> list[str]:
    """The parameter as a user gives it."""
    if parameter.param_type_name == "argument":
        return ["5"]
    option = parameter.opts[0]
    return [option] if parameter.is_flag else [option, VALUES.get(option, "5")]


def test_the_long_commands_are_these() -> None:
    assert sorted(COMMANDS) == [
        "archive",
        "dead-letters export",
        "dead-letters park",
        "dead-letters replay",
        "dead-letters unpark",
        "erase",
        "rebuild",
        "replay",
        "verify",
    ]
    assert all(
        {"--resume", "--abort"} <= {option for each in command.params for option in each.opts} for command in COMMANDS.values()
    )


@pytest.mark.parametrize(("command", "begin", "other"), BESIDE, ids=lambda each: each if isinstance(each, str) else each.name)
def test_what_does_not_go_with_it_is_named(command: str, begin: str, other: Any) -> None:
    done = invoke(*command.split(), begin, "some-id", *given(other))
    name = other.opts[0] if other.param_type_name == "option" else other.name.upper()
    if begin == "--resume" and name in WITH_RESUME.get(command, ()):
        assert done.exit_code == 1, done.output
        return
    assert done.exit_code == 2, done.output
    pair = {begin, "--resume"} if name == "--resume" else {begin}
    lines = [line for line in done.stderr.splitlines() if "does not go with" in line]
    assert len(lines) == 1, done.stderr
    assert all(each in lines[0] for each in (name, *pair))


@pytest.mark.parametrize("begin", ["--resume", "--abort"])
@pytest.mark.parametrize("command", COMMANDS)
def test_yes_and_json_go_with_it(command: str, begin: str) -> None:
    yes = ["--yes"] * any("--yes" in each.opts for each in COMMANDS[command].params)
    assert invoke(*command.split(), begin, "some-id", *yes, "--json").exit_code == 1, "Redis is asked for the operation"
