"""Every command explains itself, by ``--help`` and by ``-h``."""

from collections.abc import Iterator

import pytest
import typer
from typer.testing import CliRunner

from worker.cli.commands import app


def commands(group: typer.core.TyperGroup, names: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """The names that lead to each command and group, those of the whole among them."""
    yield [*names]
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from commands(command, (*names, name))
        else:
            yield [*names, name]


GROUP = typer.main.get_command(app)
assert isinstance(GROUP, typer.core.TyperGroup)


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("command", [*commands(GROUP)], ids=" ".join)
def test_every_command_has_help(command: list[str], option: str) -> None:
    done = CliRunner().invoke(app, [*command, option])
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"Usage: root {' '.join(command)}".rstrip() in done.stdout
