"""No alert fires while all is well."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.observed import Program, observed
from tests.support.services import Broker, Redis


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_none_fires_in_an_hour_of_a_quiet_day(kafka: Broker, redis_server: Redis, tmp_path: Path, program: Program) -> None:
    """Devices send five events a second, all of them good; the hour is five minutes here."""
    quiet = ("--rate", "5", "--count", "500", "--bad-payloads", "0", "--bad-clocks", "0", "--offline", "0")
    with observed(kafka, redis_server, tmp_path, program, workers=2, factor=12) as seen:
        began, seed = time.monotonic(), 0
        while time.monotonic() - began < 300:
            seed += 1
            sent = seen.system.run_cli("simulate", *quiet, "--seed", str(seed))
            assert sent.returncode == 0, sent.stderr
        assert not seen.prometheus.have_fired()
        ((_, minutes),) = seen.prometheus.query("count_over_time(attendance:freshness_minute:bad[1d])").items()
        assert minutes >= 55, "the objective was not measured"
        assert sum(seen.prometheus.query("attendance:events_usable:increase15m").values()) > 300
        assert sum(seen.prometheus.query("attendance:sources_reporting:count").values()) > 10
