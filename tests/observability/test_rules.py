"""The alert rules: Prometheus' own program reads them, and runs their tests."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.support.prometheus import DEPLOYED, deployed_alerts, shortened

RULES = (DEPLOYED / "rules.yml").read_text()
TESTS = yaml.safe_load((DEPLOYED / "tests.yml").read_text())["tests"]


@pytest.fixture(scope="module")
def promtool(program: Callable[[str, str], Path]) -> Callable[..., str]:
    """Runs promtool, and returns what it printed."""
    path = program("promtool", "prometheus")

    def run(*arguments: str | Path) -> str:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_prometheus_accepts_configuration_and_rules(promtool: Callable[..., str]) -> None:
    assert "SUCCESS" in promtool("check", "config", DEPLOYED / "prometheus.yml")


def test_alerts_fire_for_their_cause_and_resolve(promtool: Callable[..., str]) -> None:
    assert "SUCCESS" in promtool("test", "rules", DEPLOYED / "tests.yml")


def test_every_alert_is_seen_to_fire_with_its_texts() -> None:
    fired = {each["alertname"] for test in TESTS for each in test.get("alert_rule_test", ()) if each["exp_alerts"]}
    assert fired == set(deployed_alerts())


@pytest.mark.parametrize("factor", [12, 30, 60])
def test_shortened_rules_differ_in_durations_alone(factor: int, promtool: Callable[..., str], tmp_path: Path) -> None:
    short = shortened(RULES, factor)
    pairs = [(one, other) for one, other in zip(RULES.split(), short.split(), strict=True) if one != other]
    seconds = {"s": 1, "m": 60, "h": 3600, "d": 86400}
    shown = r"\d+(?:ms|s|m|h|d)"
    for one, other in pairs:
        assert re.sub(shown, "T", one) == re.sub(shown, "T", other)
        for before, after in zip(re.findall(shown, one), re.findall(shown, other), strict=True):
            if before != after:
                assert int(after.removesuffix("ms")) == int(before[:-1]) * seconds[before[-1]] * 1000 // factor
    (tmp_path / "rules.yml").write_text(short)
    promtool("check", "rules", tmp_path / "rules.yml")


def test_no_duration_of_a_rule_is_left_as_it_was() -> None:
    for group in yaml.safe_load(shortened(RULES, 30))["groups"]:
        assert group.get("interval", "1ms").endswith("ms")
        for rule in group["rules"]:
            assert rule.get("for", "1ms").endswith("ms")
            expression = re.sub(r"attendance:[\w:]+", "", rule["expr"])
            assert not re.search(r"\b\d+(s|m|h|d|w|y)\b", expression), expression
