"""Every hazard has a test or a reason (tests/engine/README.md), and the settings that keep some of them away."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from worker.engine import faust_consumer, faust_thread
from worker.settings import Settings
from worker.stream.app import create_app

ROOT = Path(__file__).parents[3]
HAZARDS = ROOT / "tests/engine/README.md"
IDS = [*(f"H{n}" for n in range(1, 19)), *(f"W{n}" for n in range(1, 16)), "E1"]


def rows() -> list[list[str]]:
    lines = [line for line in HAZARDS.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0][:40])
def test_every_hazard_names_a_test_that_exists_or_a_reason(row: list[str]) -> None:
    _hazard, _measure, met = row
    named = re.findall(r"`([\w./]+\.py)::(\w+)`", met)
    assert named or re.match(r"none( here)?: \w+", met), row
    for file, test in named:
        tree = ast.parse((HAZARDS.parent / file).read_text())
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (file, test)


def test_every_hazard_of_the_research_is_in_the_table() -> None:
    held = " ".join(row[0] for row in rows())
    assert [each for each in IDS if not re.search(rf"\b{each}\b", held)] == []


def test_the_app_has_no_faust_tables_and_no_standbys() -> None:
    """With the defaults: one standby a table, a web server on port 6066, sixteen minutes until a pause leaves the group."""

    async def consume(stream: Any) -> None:
        """Takes nothing."""

    app = create_app(Settings(_env_file=None), consume)  # type: ignore[call-arg]
    assert not app.tables
    assert app.conf.table_standby_replicas == 0
    assert app.conf.web_enabled is False
    assert app.conf.processing_guarantee.name == "AT_LEAST_ONCE"
    assert app.conf.broker_max_poll_interval == 86_400
    assert app.conf.consumer_auto_offset_reset == "earliest"
    assert app.conf.topic_disable_leader
    # a revocation that drains, and commits twice, ends before the broker has lost patience
    bound = faust_consumer.DRAIN_SECONDS + 2 * faust_thread.COMMIT_SECONDS
    assert app.conf.broker_rebalance_timeout > bound


def test_names_that_do_not_do_what_they_say_are_not_used() -> None:
    """`wait_for_stopped_flow` returns at once; `exactly_once` swallows errors; `use_partitioner` takes the table's key."""
    sources = "".join(path.read_text() for path in (ROOT / "worker").rglob("*.py"))
    for name in ("wait_for_stopped_flow", "exactly_once", "use_partitioner", "isolated_partitions"):
        assert name not in sources
