"""What commands print: ids as they are, on any terminal, into any pipe."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.ops.show import print_rows

ROOT = Path(__file__).parents[2]
IDS = ["BK-1[vip]", "room[/2]", "hall:fire:a", "[bold]x[/bold]", "\\[x]"]


@pytest.mark.parametrize("name", IDS)
def test_ids_that_look_like_markup_are_shown(capsys: pytest.CaptureFixture[str], name: str) -> None:
    print_rows([{"sessionId": name}], as_json=False)
    assert name in capsys.readouterr().out


def run(code: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", f"from worker.ops.show import *\nprepare_output()\n{code}"]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("code", ["print_rows([{'bookingId': 'Müller-東'}], False)", "print_one({'x': '東'}, '', False)"])
def test_a_terminal_of_ascii_shows_what_it_can(code: str) -> None:
    done = run(code, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"?" in done.stdout


def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path: Path) -> None:
    command = f"ATTENDANCE_API_TOKENS={tmp_path}/t {sys.executable} -m worker doctor --help 2>{tmp_path}/err | true"
    subprocess.run(command, shell=True, cwd=ROOT, timeout=60, check=True)
    assert (tmp_path / "err").read_text() == ""
