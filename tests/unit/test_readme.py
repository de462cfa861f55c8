"""The README's lists are the code's: settings with defaults, commands, topics, keys, events, alerts, reasons."""

import re
from pathlib import Path

import pytest
import typer

from schemas.alerts import SEVERITIES
from schemas.events import EventType, Reason
from worker.cli.commands import app
from worker.ops import topics as topic_ops
from worker.read_model.keys import LAYOUT
from worker.settings import Settings
from worker.web.app import create_app
from worker.web.openapi import document

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DEFAULTS = Settings(_env_file=None)  # type: ignore[call-arg]


def rows(heading: str) -> list[list[str]]:
    """Cells of the table under a heading, without its first two lines."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def code(cell: str) -> str:
    """What stands first in backticks in a cell."""
    found = re.match(r"`([^`]*)`", cell)
    return found[1] if found else ""


def test_settings_are_listed_with_their_defaults() -> None:
    listed = {code(row[0]): row[1] for row in rows("Settings")}
    assert list(listed) == [f"ATTENDANCE_{name.upper()}" for name in Settings.model_fields]
    durations = {"5m": 300, "10m": 600, "30d": 2_592_000, "8s": 8, "10s": 10, "30s": 30, "5s": 5}
    for name in Settings.model_fields:
        default = getattr(DEFAULTS, name)
        told = code(listed[f"ATTENDANCE_{name.upper()}"])
        if hasattr(default, "total_seconds"):
            assert durations[told] == default.total_seconds(), name
        elif hasattr(default, "get_secret_value"):
            assert told == default.get_secret_value(), name
        elif name != "namespace":
            assert told == ("" if default is None else str(default)), name


def test_settings_that_shape_results_are_marked() -> None:
    marked = {code(row[0]) for row in rows("Settings") if row[0].endswith("*")}
    assert marked == {f"ATTENDANCE_{name.upper()}" for name in DEFAULTS.shaping()}


def commands(group: typer.core.TyperGroup, prefix: str = "attendance") -> list[str]:
    found = []
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            found += commands(command, f"{prefix} {name}")
        else:
            found.append(f"{prefix} {name}")
    return found


def test_commands_are_listed() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    assert sorted(code(row[0]) for row in rows("Commands")) == sorted(commands(group))


def test_calls_of_the_api_are_listed_with_their_scopes() -> None:
    paths = document(create_app(DEFAULTS))["paths"]
    calls = {
        f"{method.upper()} {path}": ", ".join(each["token"][0] for each in call.get("security", [{"token": ["none"]}]))
        for path, methods in paths.items()
        for method, call in methods.items()
    }
    assert {code(row[0]): row[1] for row in rows("HTTP API")} == calls


def test_topics_are_listed() -> None:
    assert [code(row[0]) for row in rows("Topics")] == [plan.name for plan in topic_ops.plans(DEFAULTS)]


def test_keys_are_listed() -> None:
    assert [code(row[0]) for row in rows("Keys in Redis")] == list(LAYOUT)


def test_events_are_listed() -> None:
    assert [code(row[0]) for row in rows("Events")] == [kind.value for kind in EventType]


def test_alerts_are_listed_with_their_severity() -> None:
    assert {code(row[0]): row[1] for row in rows("Alerts")} == {k.value: s.value for k, s in SEVERITIES.items()}


@pytest.mark.parametrize("reason", list(Reason))
def test_reasons_are_listed(reason: Reason) -> None:
    assert f"`{reason}`" in README


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z-]+)", README)) <= targets


def test_files_it_names_exist() -> None:
    named = set(re.findall(r"`((?:worker|tests|schemas|deploy)/[\w./-]*)`", README))
    assert [name for name in named if not (ROOT / name).exists()] == []
