"""Log lines: our own and the clients' in one format, each one line."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import logging, structlog
from worker.logs import configure_client_logs, configure_logs
from worker.settings import load_settings
settings = load_settings()
configure_logs(settings)
configure_client_logs(settings)
structlog.get_logger("worker.own").warning("waiting", what="kafka", partition=3, name="Müller")
try:
    raise OSError("no route\\nto host")
except OSError:
    logging.getLogger("aiokafka").exception("Unable to connect to %s", "host")
"""


def _lines(tmp_path: Path, **variables: str) -> list[str]:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONIOENCODING": "utf-8", **variables}
    command = [sys.executable, "-c", _PROGRAM]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=60, check=True)
    assert done.stdout == b""
    return done.stderr.decode().splitlines()


def test_each_line_begins_with_time_level_and_name(tmp_path: Path) -> None:
    own, clients = _lines(tmp_path)
    when = r"timestamp=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
    assert re.fullmatch(rf"{when} level=warning logger=worker\.own event=waiting what=kafka partition=3 name=Müller", own)
    assert re.fullmatch(rf'{when} level=error logger=aiokafka event="Unable to connect to host" error="OSError\(.*\)"', clients)


@pytest.mark.parametrize("name", ["json", "JSON"])
def test_lines_are_json_where_that_is_set(tmp_path: Path, name: str) -> None:
    own, clients = map(json.loads, _lines(tmp_path, ATTENDANCE_LOG_FORMAT=name))
    assert own.items() >= {"level": "warning", "logger": "worker.own", "event": "waiting", "name": "Müller"}.items()
    assert own["partition"] == 3
    assert clients.items() >= {"level": "error", "logger": "aiokafka", "event": "Unable to connect to host"}.items()
    assert "no route" in clients["error"]


def test_debug_shows_where_an_error_came_from(tmp_path: Path) -> None:
    assert any("Traceback" in line for line in _lines(tmp_path, ATTENDANCE_LOG_LEVEL="DEBUG"))
