"""How commands find a running `dev`: only one that runs, only as a whole, and what is set wins."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from worker.cli.services import service_settings, tokens_settings
from worker.ops.running_dev import FOLDER_PREFIX, announced, running_devs
from worker.settings import Settings, SettingsError

ROOT = Path(__file__).parents[3]
BROKER, REDIS = "kafka://127.0.0.1:4001", "redis://127.0.0.1:4002/0"
STARTED = {"broker": BROKER, "redis": REDIS, "partitions": 4, "store": "memory://", "session_timeout": "6s"}


@pytest.fixture(autouse=True)
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variables, no .env, and a folder of temporary files in which no `dev` runs."""
    for name in Settings.model_fields:
        # set and deleted, so that what a test leaves in the environment is deleted too
        monkeypatch.setenv(f"ATTENDANCE_{name.upper()}", "")
        monkeypatch.delenv(f"ATTENDANCE_{name.upper()}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@contextmanager
def dev(name: str = "1", started: tuple[str, ...] = ("broker", "redis"), **settings: Any) -> Iterator[None]:
    """As if a `dev` with these settings ran."""
    folder = Path(tempfile.gettempdir(), FOLDER_PREFIX + name)
    folder.mkdir()
    with announced(Settings(_env_file=None, **(STARTED | settings)), folder, set(started)):  # type: ignore[call-arg]
        yield


def used(capsys: pytest.CaptureFixture[str]) -> tuple[str, str, int, str]:
    """Broker, Redis and partitions of a command, and what it prints to stderr."""
    settings = service_settings()
    return settings.broker, settings.redis.get_secret_value(), settings.partitions, capsys.readouterr().err


def test_it_is_used_where_nothing_is_set(capsys: pytest.CaptureFixture[str]) -> None:
    with dev():
        *found, line = used(capsys)
    assert found == [BROKER, REDIS, 4]
    assert line == f"the running dev (pid {os.getpid()}) is used: {BROKER}, {REDIS}\n"


def test_processes_that_a_command_starts_use_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    with dev(topic_prefix="mine", conflict_window="1m"):
        settings = service_settings()
        assert Settings() == settings  # type: ignore[call-arg]
    assert (settings.topic_prefix, settings.shaping()["conflict_window"], settings.store) == ("mine", 60_000_000, "memory://")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_none_is_found_once_it_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    with dev():
        assert len(running_devs()) == 1
    assert running_devs() == []
    *found, line = used(capsys)
    assert (found, line) == (["kafka://localhost:9092", "redis://localhost:6379/0", 16], "")


_KILLED = """
import os, signal, sys
from pathlib import Path
from worker.ops.running_dev import announced
from worker.settings import Settings
with announced(Settings(_env_file=None, broker="kafka://h:1", redis="redis://h:2"), Path(sys.argv[1]), {"broker", "redis"}):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_file_of_a_killed_dev_is_ignored_if_its_pid_lives(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(tempfile.gettempdir(), f"{FOLDER_PREFIX}killed")
    folder.mkdir()
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(folder)], cwd=ROOT, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    (file,) = folder.iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), "pid": os.getpid()}))
    *found, line = used(capsys)
    assert (found[0], line) == ("kafka://localhost:9092", "")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("ATTENDANCE_BROKER", "kafka://h:1", "kafka://h:1, redis://localhost:6379/0"),
        ("ATTENDANCE_REDIS", "redis://:hidden@h:1", "kafka://localhost:9092, redis://:***@h:1"),
    ],
)
def test_an_address_that_is_set_wins_over_the_running_dev(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, shown: str
) -> None:
    monkeypatch.setenv(name, value)
    with dev():
        *found, line = used(capsys)
    assert value in found
    assert not {BROKER, REDIS} & {*found}
    assert line == f"the running dev (pid {os.getpid()}) is not used, since {name} is set: {shown}\n"


def test_a_settings_file_counts_as_set_but_no_empty_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATTENDANCE_BROKER", "")
    with dev():
        assert used(capsys)[0] == BROKER
    monkeypatch.setenv("ATTENDANCE_BROKER", "")
    monkeypatch.setenv("ATTENDANCE_REDIS", "")
    Path(".env").write_text("ATTENDANCE_BROKER=kafka://h:1\n")
    with dev("2"):
        assert used(capsys)[0] == "kafka://h:1"


def test_with_both_addresses_set_nothing_is_taken_or_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATTENDANCE_BROKER", "kafka://h:1")
    monkeypatch.setenv("ATTENDANCE_REDIS", REDIS)
    with dev():
        assert used(capsys) == ("kafka://h:1", REDIS, 16, "")


def test_with_its_own_addresses_set_the_rest_comes_from_the_dev(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATTENDANCE_BROKER", BROKER)
    with dev():
        assert used(capsys)[:3] == (BROKER, REDIS, 4)


def test_another_setting_that_is_set_wins(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("ATTENDANCE_PARTITIONS", "7")
    with dev():
        assert used(capsys)[:3] == (BROKER, REDIS, 7)


def test_what_a_dev_was_given_must_be_set_here_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It may contain a password, which no file holds."""
    given = "redis://:hidden@h:2/0"
    with dev(started=("broker",), redis=given, namespace="attendance-dev-1"):
        assert not [path for path in Path(tempfile.gettempdir()).rglob("*.json") if "hidden" in path.read_text()]
        *found, line = used(capsys)
        assert found == ["kafka://localhost:9092", "redis://localhost:6379/0", 16]
        assert "set ATTENDANCE_REDIS here as it was set for it" in line
        monkeypatch.setenv("ATTENDANCE_REDIS", "redis://:hidden@other:2/0")
        assert used(capsys)[0] == "kafka://localhost:9092"
        monkeypatch.setenv("ATTENDANCE_REDIS", given)
        assert used(capsys)[:3] == (BROKER, given, 4)
        assert service_settings().redis_namespace == "attendance-dev-1"


def test_of_several_the_newest_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as stack:
        for number in range(3):
            stack.enter_context(dev(str(number), partitions=number + 1))
            (written,) = Path(tempfile.gettempdir(), f"{FOLDER_PREFIX}{number}").iterdir()
            os.utime(written, (1e9 + number, 1e9 + number))
        *found, line = used(capsys)
    assert found[2] == 3
    assert "is used, the newest of 3: " in line


def test_commands_of_tokens_use_its_file_if_it_has_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with dev():
        assert tokens_settings().api_tokens is None
        monkeypatch.setenv("ATTENDANCE_API_TOKENS", "mine")
        assert tokens_settings().api_tokens == Path("mine")
        assert capsys.readouterr().err == ""
    monkeypatch.delenv("ATTENDANCE_API_TOKENS")
    with dev("2", api_tokens="here/tokens"):
        assert tokens_settings().api_tokens == tmp_path / "here/tokens"


def test_a_wrong_setting_is_named_as_without_a_dev(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENDANCE_PARTITIONS", "many")
    with dev(), pytest.raises(SettingsError, match="ATTENDANCE_PARTITIONS"):
        service_settings()
