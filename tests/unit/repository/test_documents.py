"""The documents are true: their lists are the code's, their links and names exist, their examples are valid."""

import ast
import asyncio
import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer
from redis.exceptions import NoPermissionError

from schemas import events, ids
from schemas.alerts import SEVERITIES, AlertKind, alert_id
from schemas.attendance import attendance_id, guid
from schemas.decoding.explain import decode, decode_booking
from schemas.events import Booking, DeadLetter, Event, EventType, Reason
from schemas.query.filter import MAX_FILTER_BYTES, MAX_LOOKUPS, MAX_VALUES, MAX_VALUES_OF_OPERATOR
from schemas.query.parser import MAX_CONDITIONS, MAX_DEPTH
from schemas.query.request import DEFAULT_LIMIT, MAX_LIMIT, parse_query
from schemas.query.violations import Rule
from worker.cli.commands import app
from worker.domain.row_codec import FORMAT
from worker.monitoring.metrics import WorkerMetrics
from worker.monitoring.state import WorkerState
from worker.ops import doctor
from worker.ops import topics as topic_ops
from worker.read_model.keys import LAYOUT, LAYOUT_VERSION
from worker.read_model.partition_reader import MOST_OF_BOOKINGS
from worker.read_model.query.devices import MOST_ARRIVED
from worker.settings import Settings
from worker.web.app import create_app
from worker.web.http.bodies import MAX_JSON_VALUES
from worker.web.last_seen import Snapshot
from worker.web.metrics import Metrics
from worker.web.openapi import document
from worker.web.partition_metrics import open_alerts, partition_families

ROOT = Path(__file__).parents[3]
DEFAULTS = Settings(_env_file=None)  # type: ignore[call-arg]
FOLDERS = ("schemas", "worker", "deploy", "tests")
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))])
DOCUMENTS = [path for path in DOCUMENTS if "node_modules" not in path.parts]
README, CONTRACT, RUNBOOK = ROOT / "README.md", ROOT / "schemas/README.md", ROOT / "deploy/README.md"
CODE, READ_MODEL, WEB = (ROOT / "worker" / name / "README.md" for name in ("", "read_model", "web"))
WIDEST = 160
#: Chapters of documents that are not in the repository: no reader could look them up.
ELSEWHERE = ("contract" + ", section", "design" + ", ")
SOURCES = (".py", ".lua", ".md", ".toml", ".yml", ".java", ".js", ".go")
each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def rows(path: Path, heading: str) -> list[list[str]]:
    """Cells of the tables under a heading, those of its sub-headings included, without the first two lines of each."""
    level, section = section_of(path, heading)
    section = re.split(rf"\n#{{1,{level}}} ", section)[0]
    found, header = [], True
    for line in section.splitlines():
        if not line.startswith("|"):
            header = True
        elif line.startswith("|---"):
            header = False
        elif not header:
            found.append(cells(line))
    return found


def section_of(path: Path, heading: str) -> tuple[int, str]:
    """The level of a heading, and the text behind it."""
    match = re.search(rf"^(#+) {re.escape(heading)}\n", path.read_text(), re.MULTILINE)
    assert match, f"{path.relative_to(ROOT)} has no heading {heading}"
    return len(match[1]), path.read_text()[match.end() :]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def code(cell: str) -> str:
    """What stands first in backticks in a cell."""
    found = re.match(r"`([^`]*)`", cell)
    return found[1] if found else ""


def codes(cell: str) -> list[str]:
    """All that stands in backticks in a cell."""
    return re.findall(r"`([^`]*)`", cell)


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)


# --- lists ---------------------------------------------------------------------------------------


def test_settings_are_listed_with_their_defaults() -> None:
    listed = {code(row[0]): row[1] for row in rows(RUNBOOK, "Settings")}
    assert list(listed) == [f"ATTENDANCE_{name.upper()}" for name in Settings.model_fields]
    durations = {"5m": 300, "10m": 600, "30d": 2_592_000, "8s": 8, "10s": 10, "30s": 30, "5s": 5}
    for name in Settings.model_fields:
        default = getattr(DEFAULTS, name)
        shown = code(listed[f"ATTENDANCE_{name.upper()}"])
        if hasattr(default, "total_seconds"):
            assert durations[shown] == default.total_seconds(), name
        elif hasattr(default, "get_secret_value"):
            assert shown == default.get_secret_value(), name
        elif name != "namespace":
            assert shown == ("" if default is None else str(default)), name


def test_settings_that_shape_results_are_marked() -> None:
    marked = {code(row[0]) for row in rows(RUNBOOK, "Settings") if row[0].endswith("*")}
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
    assert sorted(code(row[0]) for row in rows(RUNBOOK, "Commands")) == sorted(commands(group))


@each_document
def test_commands_in_documents_exist(path: Path) -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    known = {*commands(group), *(f"attendance {name}" for name in group.commands)}
    named = set(re.findall(r"`(attendance [a-z-]+(?: [a-z]+)?)", path.read_text()))
    assert [name for name in named if name not in known and " ".join(name.split()[:2]) not in known] == []


def test_calls_of_the_api_are_listed_with_their_scopes() -> None:
    paths = document(create_app(DEFAULTS))["paths"]
    calls = {
        f"{method.upper()} {path}": ", ".join(each["token"][0] for each in call.get("security", [{"token": ["none"]}]))
        for path, methods in paths.items()
        for method, call in methods.items()
    }
    assert {code(row[0]): row[1] for row in rows(WEB, "Calls")} == calls


def test_codes_of_errors_are_listed() -> None:
    listed = [each for row in rows(WEB, "Errors") for each in codes(row[0])]
    assert len(listed) == len(set(listed))
    assert set(listed) == {*codes_of_errors(), "NO_WORKER", "KAFKA_AWAY"}


def codes_of_errors() -> Iterator[str]:
    """The codes that the API's code gives to its two makers of errors with a code."""
    for path in (ROOT / "worker/web").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                arguments = {"Refused": node.args[1:2], "Unavailable": node.args[:1]}.get(node.func.id, [])
                yield from (each.value for each in arguments if isinstance(each, ast.Constant))


def test_rules_of_violations_are_listed() -> None:
    _, section = section_of(WEB, "Errors")
    sentence = section.split("\nRules of a `validationError`:", 1)[1].split(";", 1)[0]
    assert codes(sentence) == [rule.value for rule in Rule]


def test_topics_are_listed_with_their_configs() -> None:
    plans = topic_ops.plans(DEFAULTS)
    listed = rows(RUNBOOK, "Topics")
    assert [code(row[0]) for row in listed] == [plan.name for plan in plans]
    shown = {"retention.ms": "30 days or more", "min.compaction.lag.ms": "one hour"}
    for plan, row in zip(plans, listed, strict=True):
        for name, value in plan.settings.items():
            if name == "max.message.bytes":
                assert "`max.message.bytes` 2 MiB" in row[3], plan.name
            elif name in shown:
                assert f"`{name}` {shown[name]}" in row[3], plan.name
            else:
                assert f"`{name}={value}`" in row[3], plan.name
        assert len(codes(row[3])) == len(plan.settings), plan.name


def test_keys_are_listed() -> None:
    assert [code(row[0]) for row in rows(READ_MODEL, "Keys")] == list(LAYOUT)


def test_scripts_are_listed() -> None:
    scripts = {path.name for path in (ROOT / "worker/read_model/lua").glob("*.lua")}
    assert {code(row[0]) for row in rows(READ_MODEL, "Scripts")} == scripts


def test_types_of_events_are_listed() -> None:
    assert [code(row[0]) for row in rows(CONTRACT, "Types")] == [kind.value for kind in EventType]


def test_alerts_are_listed_with_their_severity() -> None:
    assert {code(row[0]): row[1] for row in rows(CONTRACT, "Alerts")} == {k.value: s.value for k, s in SEVERITIES.items()}


def test_reasons_of_dead_letters_are_listed_in_their_order() -> None:
    assert [code(row[0]) for row in rows(CONTRACT, "Reasons")] == [reason.value for reason in Reason]


def test_metrics_are_listed_with_their_type() -> None:
    families = [*partition_families(Snapshot([], None)), open_alerts({})]
    shown = Metrics().text(families).decode()
    metrics = dict(re.findall(r"^# TYPE (\S+) (\S+)$", shown, re.MULTILINE))
    assert {code(row[0]): row[1] for row in rows(RUNBOOK, "Metrics of the API")} == metrics


def test_metrics_of_workers_are_listed_with_their_type() -> None:
    metrics = WorkerMetrics("1", lambda: 0.0)
    metrics.state = WorkerState(0.0, recovery=(1, 1))
    shown = dict(re.findall(r"^# TYPE (\S+) (\S+)$", metrics.text().decode(), re.MULTILINE))
    listed = {code(row[0]): row[1] for row in rows(RUNBOOK, "Metrics of workers")}
    assert listed == {name: kind for name, kind in shown.items() if not name.startswith("process_")}


def test_log_lines_are_listed() -> None:
    """An event is listed by its words up to the first punctuation mark."""
    listed = [code(row[0]) for row in rows(RUNBOOK, "Log lines")]
    assert len(listed) == len(set(listed))
    assert set(listed) == {re.split(r"[:;,`]", event)[0].strip() for event in log_events()}


def log_events() -> Iterator[str]:
    """The first argument of each call of a module's log; where that is a parameter named ``event``, what is passed for it."""
    for path in (ROOT / "worker").rglob("*.py"):
        tree = ast.parse(path.read_text())
        texts = {
            ast.unparse(node.targets[0]): node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        }
        takers = {
            node.name: [ast.unparse(each) for each in node.args.defaults]
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and "event" in [each.arg for each in node.args.args]
        }
        yield from (texts[name] for defaults in takers.values() for name in defaults if name in texts)
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and node.args):
                continue
            called = ast.unparse(node.func)
            if re.fullmatch(r"log\.(debug|info|warning|error|exception)", called):
                first = node.args[0]
                yield from [first.value] if isinstance(first, ast.Constant) and isinstance(first.value, str) else []
            elif called.rpartition(".")[2] in takers:
                yield from (texts[each] for each in map(ast.unparse, node.args) if each in texts)


def test_layers_are_drawn_as_they_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (each["layers"] for each in contracts if each["type"] == "layers")
    _, section = section_of(CODE, "Layers")
    assert section.split("```\n")[1].splitlines() == layers


def test_rights_in_redis_are_those_that_the_doctor_names() -> None:
    hint = asyncio.run(doctor.redis_failure(DEFAULTS, NoPermissionError("no permissions")))
    rights = re.search(r"~\S+:\* (\+@all .*)$", hint)
    assert rights
    assert f"`~<namespace>:* {rights[1]}`" in RUNBOOK.read_text()


def test_limits_are_those_of_the_code() -> None:
    """Each limit as its document words it."""
    fields = {code(row[0]): row[1] for row in rows(CONTRACT, "Fields and limits")}
    for name, most in (("bookingId", ids.MAX_BOOKING_ID), ("sessionId", ids.MAX_SESSION_ID), ("id", ids.MAX_NAME)):
        assert f"1 to {most} characters" in fields[name]
    assert f"0 to {ids.MAX_ATTENDEES}" in fields["numberOfAttendees"]
    assert f"1 to {ids.MAX_PARTICIPANTS}" in fields["numberOfParticipants"]
    sizes = f"{events.MAX_EVENT_BYTES // 1024} KiB on the events topic, {events.MAX_BOOKING_BYTES // 1024} KiB"
    assert sizes in CONTRACT.read_text()
    limits = {row[0]: row[1] for row in rows(CONTRACT, "Limits of a query")}
    for name, shown in {
        "conditions; filter objects under `$and`; nesting of `$and`": f"{MAX_CONDITIONS}; {MAX_CONDITIONS}; {MAX_DEPTH}",
        "values of one operator; of one filter": f"{MAX_VALUES_OF_OPERATOR}; {MAX_VALUES:,}",
        "sessions times statuses times numbers (or ranges of numbers)": f"{MAX_LOOKUPS:,}",
        "values of a filter as packed in a cursor": f"{MAX_FILTER_BYTES:,} bytes",
        "attendances of the bookings that a filter names, together": f"{MOST_OF_BOOKINGS:,}",
        "ATTENDED attendances of a session whose arrivals are asked for": f"{MOST_ARRIVED:,}",
        "JSON values in a request body": f"{MAX_JSON_VALUES:,}",
    }.items():
        assert limits[name] == shown, name
    assert f"`limit` 1 to {MAX_LIMIT}, default {DEFAULT_LIMIT}" in CONTRACT.read_text()
    assert f"another format (now {FORMAT})" in RUNBOOK.read_text()
    assert f"layout version (now {LAYOUT_VERSION})" in RUNBOOK.read_text()


def test_make_targets_exist() -> None:
    targets = {*re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE), ".env"}
    for path in DOCUMENTS:
        assert set(re.findall(r"(?:`|^|\n)make ([a-z.-]+)", path.read_text())) <= targets, path


# --- form ----------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 150


@each_document
def test_prose_is_no_wider_than_a_screen(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    assert [line for line in text.splitlines() if len(line) > WIDEST and not line.startswith("|")] == []


@each_document
def test_links_lead_somewhere(path: Path) -> None:
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text())):
        if "://" in target:
            continue
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), f"{target}#{anchor}"


def anchors(path: Path) -> set[str]:
    """Those that GitHub gives to a document's headings."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def found(name: str, path: Path) -> list[Path]:
    """Files of this name, given as from the root, the document's folder, or one of the code's folders."""
    name = name.partition("::")[0]
    return [place / name for place in (ROOT, path.parent, ROOT / "worker") if (place / name).exists()]


@each_document
def test_files_it_names_exist(path: Path) -> None:
    text = path.read_text()
    named = {*re.findall(r"`((?:worker|tests|schemas|deploy)/[\w./-]*)`", text)}
    named |= {*re.findall(r"`([\w./-]+\.(?:py|lua|md|toml|js|go|java|csv|yml))(?:::\w+)?`", text)}
    missing = [name for name in sorted(named) if not found(name, path) and not found(name, ROOT / "worker/read_model/lua/x")]
    assert missing == []


@cache
def names_of(path: Path) -> frozenset[str]:
    """What a file defines: functions, classes, methods, attributes and constants; of Lua its functions."""
    text = path.read_text()
    if path.suffix == ".lua":
        return frozenset(re.findall(r"function (\w+)", text))
    names = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.id if isinstance(node, ast.Name) else node.attr)
    return frozenset(names)


def named_in_tables() -> Iterator[tuple[Path, list[str], list[str]]]:
    """Files and names of each row that has both: in one cell (``file.py (`name`)``), or in the columns file and name."""
    for path in (CODE, WEB, ROOT / "worker/engine/README.md", READ_MODEL):
        columns: list[str] = []
        for line in path.read_text().splitlines():
            if line.startswith("|---"):
                continue
            if not line.startswith("|"):
                columns = []
                continue
            if not columns:
                columns = cells(line)
                continue
            given = dict(zip(columns, cells(line), strict=True))
            pairs = [given["file"] + given["name"]] if {"file", "name"} <= given.keys() else list(given.values())
            for pair in pairs:
                quoted = codes(pair)
                files = [each for each in quoted if re.search(r"\.(py|lua)$", each)]
                names = [each for each in quoted if re.fullmatch(r"[A-Za-z_][\w.]*", each) and each not in files]
                if files and names:
                    yield path, files, names


def test_names_beside_a_file_are_defined_there() -> None:
    wrong = []
    for path, files, names in named_in_tables():
        defined = frozenset[str]().union(*(names_of(found(file, path)[0]) for file in files if found(file, path)))
        wrong += [f"{path.parent.name}: {files} {name}" for name in names if not set(name.split(".")) <= defined]
    assert wrong == []


def test_nobody_cites_a_document_that_is_not_here() -> None:
    places = [ROOT / "pyproject.toml", ROOT / "Makefile", ROOT / "docker-compose.yml", *DOCUMENTS]
    places += [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SOURCES]
    cited = {
        f"{path.relative_to(ROOT)}: {words.strip()}"
        for path in places
        if not {"node_modules", "target"} & {*path.parts}
        for words in ELSEWHERE
        if words in path.read_text(errors="replace")
    }
    assert sorted(cited) == []


# --- examples ------------------------------------------------------------------------------------


@each_document
def test_examples_of_json_and_python_are_valid(path: Path) -> None:
    for example in blocks(path, "json"):
        json.loads(example)
    for example in blocks(path, "python"):
        ast.parse(example)


def examples() -> Iterator[dict[str, object]]:
    for path in DOCUMENTS:
        yield from (found for found in map(json.loads, blocks(path, "json")) if isinstance(found, dict))


def test_events_in_examples_are_accepted() -> None:
    kinds = set()
    for example in examples():
        kind, value = str(example.get("type")), json.dumps(example).encode()
        if kind.startswith("booking.up"):
            assert isinstance(decode_booking(value, ()), Booking)
        elif kind.startswith(("attendance.", "booking.")) and "mismatch" not in kind:
            assert isinstance(decode(value, (), 0, max_age=2**62), Event), example
        kinds.add(kind)
    assert {"attendance.check_in", "booking.upserted", "attendance.mismatch.opened"} <= kinds


def test_ids_in_examples_are_what_the_code_makes_of_them() -> None:
    for example in examples():
        alert = example.get("data") if "mismatch" in str(example.get("type")) else None
        if isinstance(alert, dict):
            assert alert["alertId"] == alert_id(AlertKind(alert["kind"]), alert["bookingId"], alert["sessionId"])
            assert str(example["id"]).startswith(f"{alert['alertId']}:opened:")
        shown = alert["attendance"] if isinstance(alert, dict) else example
        if {"bookingId", "sessionId", "updatedDate"} <= shown.keys():
            assert shown["id"] == guid(attendance_id(shown["bookingId"], shown["sessionId"]))


def test_the_detail_in_the_contract_is_that_of_the_code() -> None:
    (check_in, *_) = [example for example in examples() if example.get("type") == EventType.CHECK_IN]
    data = check_in["data"]
    assert isinstance(data, dict)
    letter = decode(json.dumps({**check_in, "data": {**data, "numberOfAttendees": "two"}}).encode(), (), 0, max_age=2**62)
    assert isinstance(letter, DeadLetter)
    assert f"`{letter.detail}`" in CONTRACT.read_text()


def test_the_query_in_the_contract_is_one() -> None:
    queries = [example["query"] for example in examples() if "query" in example]
    assert queries
    for query in queries:
        parse_query(query)
