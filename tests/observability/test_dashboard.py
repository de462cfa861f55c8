"""The dashboard: Prometheus parses every query."""

from collections.abc import Callable
from pathlib import Path

import yaml

from tests.support.prometheus import dashboard_queries
from tests.support.services.processes import run_tool


def test_every_query_of_the_dashboard_is_parsed(program: Callable[[str, str], Path], tmp_path: Path) -> None:
    queries = dashboard_queries()
    rules = [{"record": f"query_{number}", "expr": query.expression} for number, query in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    printed = run_tool([str(program("promtool", "prometheus")), "check", "rules", str(path)], timeout=60)
    assert f"SUCCESS: {len(queries)} rules found" in printed
