"""What commands print: ids as they are, on any terminal, into any pipe."""

import io
import os
import subprocess
import sys
import unicodedata
from contextlib import redirect_stdout
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from schemas import ids
from worker.cli.show import escape_controls, print_one, print_rows
from worker.web.auth import Scope, create_token, read_tokens

ROOT = Path(__file__).parents[3]
IDS = ["BK-1[vip]", "room[/2]", "hall:fire:a", "[bold]x[/bold]", "\\[x]"]


@pytest.mark.parametrize("name", IDS)
def test_ids_that_look_like_markup_are_shown(capsys: pytest.CaptureFixture[str], name: str) -> None:
    print_rows([{"sessionId": name}], as_json=False)
    assert name in capsys.readouterr().out


def run(code: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", f"from worker.cli.show import *\nprepare_output()\n{code}"]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize("code", ["print_rows([{'bookingId': 'Müller-東'}], False)", "print_one({'x': '東'}, '', False)"])
def test_a_terminal_of_ascii_shows_what_it_can(code: str) -> None:
    done = run(code, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.isascii()
    assert b"?" in done.stdout


def test_wide_characters_that_are_replaced_keep_columns_aligned() -> None:
    done = run("print_rows([{'a': '東京', 'b': 'x'}, {'a': 'ab', 'b': 'x'}], False)", PYTHONIOENCODING="ascii", COLUMNS="40")
    assert len({len(line) for line in done.stdout.splitlines()}) == 1, done.stdout


@pytest.mark.parametrize("name", ["yoga [beginners] " + "x" * 150, "y" * 250])
def test_a_pipe_gets_each_id_in_one_line(name: str) -> None:
    done = run(f"print_rows([{{'id': {name!r}, 'b': {name!r}}}], False)", COLUMNS="")
    assert done.stdout.decode().count(name) == 2


_ANY = st.text(st.characters(codec="utf-8"), min_size=1, max_size=60)
#: What a bookingId or a sessionId may be.
_IDS = _ANY.map(ids.session_id).filter(bool)


def printed(rows: list[dict[str, str]], encoding: str, width: int | None) -> str:
    """What `print_rows` and `print_one` print on a terminal, or into a pipe."""
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="replace", newline="")
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out):
        patched.setenv("COLUMNS", "" if width is None else str(width))
        print_rows(rows, as_json=False)
        print_one(rows[0], "", as_json=False)
        out.flush()
        return out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]


@given(
    st.lists(_IDS, min_size=1, max_size=3),
    st.sampled_from([None, 40, 80, 200]),
    st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252", "koi8-r", "utf-16"]),
)
def test_each_id_is_whole_on_any_terminal(names: list[str], width: int | None, encoding: str) -> None:
    shown = printed([{"id": name, "source": f"/{name}"} for name in names], encoding, width)
    for name in names:
        whole = escape_controls(name).encode(encoding, "replace").decode(encoding)
        assert shown.count(whole) >= 2, (shown, whole)
    assert all(unicodedata.category(sign) != "Cc" for sign in shown.replace("\n", ""))
    assert not {"\u2028", "\u202e", "\u2066"} & set(shown)


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_line_of_a_table_is_wider_than_the_terminal(width: int) -> None:
    """A table that does not fit is a line for each value, with a blank line between the rows."""
    identity = "88214716-6ed1-4273-b089-8015c4ab2f4b"
    row = {"id": identity, "bookingId": identity, "sessionId": "yoga", "status": "ATTENDED", "updatedDate": "2026-11-22T10:00Z"}
    shown = printed([row, row], "utf-8", width)
    lines = shown.splitlines()
    if width == 200:
        assert all(len(line) <= width for line in lines)
        assert sum(line.count(identity) == 2 for line in lines) == 2
    else:
        assert lines[: len(row) + 2] == [*(f"{name}: {value}" for name, value in row.items()), "", f"id: {identity}"]


@given(st.lists(_ANY, min_size=1, max_size=3))
def test_a_pipe_gets_each_text_in_one_line(texts: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patched, io.StringIO() as out, redirect_stdout(out):
        patched.delenv("COLUMNS", raising=False)
        print_rows([{"id": text} for text in texts], as_json=False)
        shown = out.getvalue()
    for text in texts:
        assert escape_controls(text) in shown


def test_a_list_in_a_cell_is_shown_as_its_words() -> None:
    done = run("print_rows([{'scopes': ['publish', 'read']}], False)", COLUMNS="40")
    assert b"publish, read" in done.stdout


def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    for number in range(3):
        create_token(tokens, [Scope.READ], f"t{number}", None, 1.0)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "worker", "tokens", "list", "--json"]
    environment = {**os.environ, "ATTENDANCE_API_TOKENS": str(tokens)}
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writing)
    assert done.stderr == b""
    assert done.returncode == 1


def test_an_id_that_is_no_text_is_refused_in_one_word() -> None:
    arguments = [sys.executable, "-m", "worker", "session", b"a\xffb"]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 2
    assert b"UTF-8" in done.stderr


def test_a_locale_of_ascii_takes_names_as_they_are_typed(tmp_path: Path) -> None:
    """Without it a name would be stored as surrogates, and an id be found nowhere."""
    environment = {**os.environ, "ATTENDANCE_API_TOKENS": f"{tmp_path}/t", "LC_ALL": "C", "PYTHONUTF8": "0"}
    environment["PYTHONCOERCECLOCALE"] = "0"
    name = "Tür [東]"
    for arguments in (["create", "--scope", "publish", "--name", name, "--source", "/tür"], ["list"]):
        command = [sys.executable, "-m", "worker", "tokens", *(each.encode() for each in arguments)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    assert [(token.name, token.source) for token in read_tokens(tmp_path / "t")] == [(name, "/tür")]
    assert b"T?r [?]" in done.stdout


@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_stdout_or_stderr_ends_no_command(closed: str) -> None:
    """Python has no such stream then, and to flush it raised an error at the end, of a worker after its stop."""
    command = ["bash", "-c", f'exec "$0" -m worker --version {closed}>&-', sys.executable]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
