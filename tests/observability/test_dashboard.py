"""The dashboard: Prometheus parses every query, and finds data of a real worker and a real API."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
import yaml

from tests.support.observed import Program, observed
from tests.support.prometheus import dashboard_queries
from tests.support.services import Broker, Redis
from tests.support.services.processes import run_tool, wait_until

#: Panels whose queries find nothing while all is well, all of them or some.
EMPTY_WHILE_ALL_IS_WELL = {
    "Alerts of Prometheus",
    "Devices that report",
    "Partitions that are stopped, held or not served",
    "Recovery",
}


def test_every_query_of_the_dashboard_is_parsed(program: Program, tmp_path: Path) -> None:
    queries = dashboard_queries()
    rules = [{"record": f"query_{number}", "expr": query.expression} for number, query in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    printed = run_tool([str(program("promtool", "prometheus")), "check", "rules", str(path)], timeout=60)
    assert f"SUCCESS: {len(queries)} rules found" in printed


@pytest.mark.slow
def test_every_panel_of_the_dashboard_shows_data(kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program) -> None:
    with observed(kafka, redis_server, tmp_path, program, factor=60) as seen:
        seed = 0

        def empty() -> set[str]:
            nonlocal seed
            seed += 1
            sent = seen.system.run_cli("simulate", "--count", "100", "--bad-payloads", "0.05", "--seed", str(seed))
            assert sent.returncode == 0, sent.stderr
            assert seen.api.client.get("/v1/status").status_code == 200
            assert httpx.get(f"{seen.api.url}/v1/status").status_code == 401
            queries = dashboard_queries()
            return {query.panel for query in queries if not seen.prometheus.query(query.expression)}

        assert wait_until(lambda: empty() <= EMPTY_WHILE_ALL_IS_WELL, 60, step=0.5), empty()
