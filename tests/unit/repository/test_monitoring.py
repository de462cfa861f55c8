"""Alert rules, dashboard and runbook name the same metrics, labels and alerts as the code."""

import json
import re
from collections.abc import Iterator

import pytest
import yaml

from tests.support.prometheus import DASHBOARD, DEPLOYED, ROOT, dashboard_queries, deployed_alerts, deployed_rules
from tests.unit.repository.test_documents import RUNBOOK, code, codes, rows, section_of
from worker.monitoring.metrics import WorkerMetrics
from worker.monitoring.state import WorkerState

RULES = deployed_rules()
ALERTS = deployed_alerts()
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
#: Labels that Prometheus or prometheus.yml gives to every target.
OF_TARGETS = {"job", "instance", "tenant"}
QUERIES = [*((rule.get("alert") or rule["record"], rule["expr"]) for rule in RULES), *dashboard_queries()]


def exported() -> dict[str, set[str]]:
    """The metrics of API and workers with their labels, from the lists of the runbook, which are tested against the code."""
    found: dict[str, set[str]] = {"up": set(), "ALERTS": {"alertname", "alertstate", "severity"}}
    for heading in ("Metrics of the API", "Metrics of workers"):
        for name, kind, labels, *_ in rows(RUNBOOK, heading):
            names = [code(name)] if kind != "histogram" else [f"{code(name)}_{part}" for part in ("bucket", "sum", "count")]
            found |= {each: {label for label in labels.split(", ") if label} | {"le"} for each in names}
    metrics = WorkerMetrics("1", lambda: 0.0)
    metrics.state = WorkerState(0.0)
    return found | {name: set() for name in re.findall(r"^# TYPE (process_\w+)", metrics.text().decode(), re.MULTILINE)}


EXPORTED = exported()


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics that an expression names, each with the labels that its selector names."""
    text = re.sub(r"\b(?:by|on|without|ignoring) \([\w, ]*\)", "", expression)
    for name, labels in re.findall(
        r"\b((?:attendance|process)[\w:]*|up|ALERTS)\b(?:\{([^}]*)\})?", re.sub(r'"[^"]*"', '""', text)
    ):
        yield name, set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)\s*\"", labels))


@pytest.mark.parametrize(("title", "expression"), QUERIES, ids=[f"{title} {n}" for n, (title, _) in enumerate(QUERIES)])
def test_every_metric_and_label_that_is_asked_for_exists(title: str, expression: str) -> None:
    found = list(selectors(expression))
    assert found, f"{title} asks for nothing"
    for name, labels in found:
        assert name in EXPORTED.keys() | RECORDED, name
        if name in EXPORTED:
            assert labels <= EXPORTED[name] | OF_TARGETS | ({"source"} if name == "ALERTS" else set()), name
    grouped = {each for names in re.findall(r"\b(?:by|on) \(([\w, ]*)\)", expression) for each in names.split(", ") if each}
    known = OF_TARGETS.union(*(EXPORTED.get(name, {"source"}) for name, _ in found))
    assert grouped <= known, f"{title} groups by a label that is not there"


def test_every_metric_that_the_runbook_names_exists() -> None:
    named = {each for each in re.findall(r"`(attendance_[a-z_]+)`", RUNBOOK.read_text()) if not each.endswith("_")}
    assert named - EXPORTED.keys() <= {code(row[0]) for row in rows(RUNBOOK, "Metrics")}
    recorded = set(re.findall(r"`(attendance:[\w:]+)`", RUNBOOK.read_text()))
    assert recorded <= RECORDED


def test_metrics_of_every_kind_are_shown_on_the_dashboard() -> None:
    """What a worker exports is shown; what is not is named here."""
    shown = {name for query in dashboard_queries() for name, _ in selectors(query.expression)}
    used = shown | {name for rule in RULES for name, _ in selectors(rule["expr"])}
    families = {code(row[0]) for heading in ("Metrics of the API", "Metrics of workers") for row in rows(RUNBOOK, heading)}
    assert {name for name in families if not any(each.startswith(name) for each in used)} == set()


# --- alerts and their runbook --------------------------------------------------------------------


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    _, section = section_of(RUNBOOK, "Alerts of Prometheus")
    titles = re.findall(r"^#### (\w+)$", re.split(r"\n### ", section)[0], re.MULTILINE)
    assert len(titles) == len(set(titles))
    assert set(titles) == set(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_to_do_and_where_it_is_written(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"] == {"severity": alert["labels"]["severity"]}
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    assert alert["annotations"]["runbook"] == f"deploy/README.md#{name.lower()}"
    _, section = section_of(RUNBOOK, name)
    severity = alert["labels"]["severity"]
    assert severity in ("page", "ticket")
    assert section.lstrip().lower().startswith(f"{severity}. ")


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_keeps_tenants_apart(name: str) -> None:
    """Every aggregation keeps the tenant; an expression without one keeps all labels."""
    expression = ALERTS[name]["expr"]
    for names in re.findall(r"\b(?:sum|max|min|count|group|avg)\s*by \(([\w, ]*)\)", expression):
        assert "tenant" in names.split(", ")
    assert not re.search(r"\b(?:sum|max|min|count|group|avg)\s*\(", expression), "an aggregation without `by`"


def test_names_of_rules_are_used_once() -> None:
    names = [rule.get("alert") or rule["record"] for rule in RULES]
    assert len(names) == len(set(names))


def test_jobs_are_those_that_the_rules_go_by() -> None:
    config = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    jobs = {job["job_name"] for job in config["scrape_configs"]}
    assert jobs == {"attendance-api", "attendance-worker"}
    named = {each for _, expression in QUERIES for each in re.findall(r'job="([^"]*)"', expression)}
    assert named <= jobs
    for job in config["scrape_configs"]:
        assert {each["target_label"] for each in job["relabel_configs"]} == {"tenant"}
    assert config["rule_files"] == ["rules.yml"]


# --- the dashboard -------------------------------------------------------------------------------


def test_panels_do_not_overlap_and_have_titles_and_queries() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert panel["title"]
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        assert panel["type"] == "row" or panel["targets"]
        taken |= cells


def test_the_dashboard_finds_its_data_source() -> None:
    text = DASHBOARD.read_text()
    assert set(re.findall(r'"uid": "([^"]*)"', text)) == {"attendance", "${datasource}"}
    (source,) = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["type"] == "prometheus"
    scraped = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == scraped


def test_the_runbook_names_the_budget_of_the_rules() -> None:
    _, section = section_of(RUNBOOK, "Prometheus and Grafana")
    minutes = 30 * 24 * 60
    assert f"so {minutes * 5 // 1000} may be bad" in section
    (budget,) = [rule["expr"] for rule in RULES if rule.get("record") == "attendance:freshness_budget:left30d"]
    assert budget.endswith(f"/ {minutes * 5 // 1000}")
    assert "99.5 %" in section
    assert "`attendance:freshness_budget:left30d`" in [f"`{each}`" for each in codes(section)]
