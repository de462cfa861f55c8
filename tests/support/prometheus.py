"""A Prometheus with the alert rules of deploy/prometheus, whose durations are shortened; and what rules and dashboard ask."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from tests.support.services import ServiceProcess

ROOT = Path(__file__).parents[2]
DEPLOYED = ROOT / "deploy/prometheus"
DASHBOARD = ROOT / "deploy/grafana/attendance.json"

_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = r"\d+(?:ms|s|m|h|d)"
#: Where rules have a duration: of a group or an alert, of a range, of a step of a subquery, of an offset.
_IN_RULES = re.compile(
    rf"(?<=interval: ){_DURATION}$|(?<=for: ){_DURATION}$"
    rf"|(?<=\[){_DURATION}(?=[\]:])|(?<=:){_DURATION}(?=\])|(?<=offset ){_DURATION}\b",
    re.MULTILINE,
)


def shortened(rules: str, factor: int) -> str:
    """The rules with all their durations divided; everything else stays as it is, byte for byte.

    Thresholds are no durations: a freshness of 5 s stays 5 s.
    """
    return _IN_RULES.sub(lambda found: divided(found[0], factor), rules)


def divided(duration: str, factor: int) -> str:
    """A duration of Prometheus, divided, in milliseconds."""
    number, unit = re.fullmatch(r"(\d+)(\D+)", duration).groups()  # type: ignore[union-attr]
    return f"{int(number) * _MILLISECONDS[unit] // factor}ms"


class Alert(NamedTuple):
    """An alert that fires."""

    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]


class Prometheus(ServiceProcess):
    """Debian's Prometheus, which scrapes given targets with the jobs and the rules of deploy/prometheus.

    Args:
        program: its path.
        targets: addresses by the name of the job, instead of what service discovery finds.
        factor: what the durations of the rules, the scrapes and the evaluations are divided by.
    """

    start_timeout = 30.0

    def __init__(self, program: Path, targets: Mapping[str, Sequence[str]], factor: int) -> None:
        super().__init__("prometheus")
        self._program = program
        self._targets = targets
        self._factor = factor
        self._since = time.time()

    def prepare(self) -> None:
        super().prepare()
        config = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
        config["global"] = {name: divided(value, self._factor) for name, value in config["global"].items()}
        # the limit of a scrape is not about windows, but may not exceed the interval
        config["global"]["scrape_timeout"] = config["global"]["scrape_interval"]
        for job in config["scrape_configs"]:
            del job["dns_sd_configs"]
            job["file_sd_configs"] = [{"files": [f"{job['job_name']}.json"], "refresh_interval": "1s"}]
        (self.folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        (self.folder / "rules.yml").write_text(shortened((DEPLOYED / "rules.yml").read_text(), self._factor))
        self.scrape(self._targets)

    def scrape(self, targets: Mapping[str, Sequence[str]]) -> None:
        """Replaces the targets of these jobs; Prometheus sees it at once."""
        for job, addresses in targets.items():
            unfinished = self.folder / f"{job}.new"
            unfinished.write_text(json.dumps([{"targets": list(addresses)}]))
            unfinished.rename(self.folder / f"{job}.json")

    def command(self) -> Sequence[str]:
        folder = self.folder
        return [
            str(self._program),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.address}",
            "--log.level=warn",
        ]

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://{self.address}/-/ready", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its HTTP API; raises ValueError with the error that it names."""
        answer = httpx.get(f"http://{self.address}/api/v1/{path}", params=parameters, timeout=30).json()
        if answer["status"] != "success":
            raise ValueError(answer["error"])
        return answer["data"]

    def query(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The values of an instant query, by their labels."""
        found = self.ask("query", query=expression)["result"]
        return {tuple(sorted(each["metric"].items())): float(each["value"][1]) for each in found}

    def firing(self) -> list[Alert]:
        """The alerts that fire now."""
        found = [each for each in self.ask("alerts")["alerts"] if each["state"] == "firing"]
        return [Alert(each["labels"]["alertname"], each["labels"], each["annotations"]) for each in found]

    def have_fired(self) -> set[str]:
        """The names of the alerts that fired since `forget`."""
        passed = max(1, int((time.time() - self._since) * 1000))
        fired = self.query(f'count_over_time(ALERTS{{alertstate="firing"}}[{passed}ms])')
        return {dict(labels)["alertname"] for labels in fired}

    def forget(self) -> None:
        """What fired until now is not of interest."""
        self._since = time.time()


def deployed_rules() -> list[dict[str, Any]]:
    """The rules of deploy/prometheus, recording rules and alerts."""
    return [rule for group in yaml.safe_load((DEPLOYED / "rules.yml").read_text())["groups"] for rule in group["rules"]]


def deployed_alerts() -> dict[str, dict[str, Any]]:
    """The alerts of deploy/prometheus by name."""
    return {rule["alert"]: rule for rule in deployed_rules() if "alert" in rule}


class Query(NamedTuple):
    """A query of the dashboard."""

    panel: str
    expression: str
    """With Grafana's variables replaced by what they may be."""


def dashboard_queries() -> list[Query]:
    """All queries of deploy/grafana, those of its variables too."""
    dashboard = json.loads(DASHBOARD.read_text())
    found = [
        Query(panel["title"], _with_values(target["expr"]))
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
            found.append(Query(variable["label"], f"count by ({label}) ({metric})"))
    return found


def _with_values(expression: str) -> str:
    replaced = expression.replace("$__rate_interval", "1m").replace("$tenant", ".*")
    assert "$" not in replaced, f"{expression}: give this variable of Grafana a value here"
    return replaced
