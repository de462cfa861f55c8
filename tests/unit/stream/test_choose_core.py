"""Which core a worker folds with."""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from worker.settings import SettingsError, installed_version, load_settings
from worker.stream import choose_core as chooser
from worker.stream.choose_core import ChosenCore, choose_core, native_problem
from worker.stream.python_core import PythonCore

ROOT = Path(__file__).parents[3]
VERSION = installed_version()


def install(monkeypatch: pytest.MonkeyPatch, version: str | None, library: str | None = None) -> None:
    """Makes a version of the distribution the installed one; with a library of that version, or of another."""

    def found(_: str) -> str:
        if version is None:
            raise PackageNotFoundError
        return version

    monkeypatch.setattr(chooser, "version", found)
    module = None if library is None else SimpleNamespace(__version__=library, Core=object)
    monkeypatch.setitem(sys.modules, "attendance_native", module)
    monkeypatch.setitem(sys.modules, "worker.stream.native_core", ModuleType("worker.stream.native_core"))
    sys.modules["worker.stream.native_core"].NativeCore = object  # type: ignore[attr-defined]
    sys.modules["worker.stream.native_core"].create_transactions = object  # type: ignore[attr-defined]


def test_the_native_core_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, VERSION, VERSION)
    chosen = [choose_core(load_settings(core=core)) for core in ("auto", "native", "python")]
    assert [each.create is PythonCore for each in chosen] == [False, False, True]
    assert [each.make_commands is not None for each in chosen] == [True, True, False]


@pytest.mark.parametrize(
    ("version", "library", "problem"),
    [
        (None, None, "attendance-native is not installed: install attendance-native=="),
        ("9.9.9", "9.9.9", f"attendance-native is 9.9.9 and the worker {VERSION}: install attendance-native=={VERSION}"),
        (VERSION, None, "attendance-native cannot be loaded ("),
        (VERSION, "9.9.9", f"attendance-native has a library of 9.9.9 and the worker is {VERSION}: install"),
    ],
)
def test_a_native_core_that_is_unusable_is_named_with_its_cure(
    monkeypatch: pytest.MonkeyPatch, version: str | None, library: str | None, problem: str
) -> None:
    install(monkeypatch, version, library)
    assert native_problem().startswith(problem)
    assert choose_core(load_settings(core="auto")) == choose_core(load_settings(core="python")) == ChosenCore(PythonCore)
    with pytest.raises(SettingsError, match=r"^ATTENDANCE_CORE: is native, but attendance-native .*make wheels"):
        choose_core(load_settings(core="native"))


def test_the_crate_and_the_worker_have_one_version() -> None:
    project, crate = (tomllib.loads((ROOT / name).read_text()) for name in ("pyproject.toml", "worker/native/Cargo.toml"))
    version = project["project"]["version"]
    assert crate["package"]["version"] == version
    assert project["project"]["optional-dependencies"]["native"] == [f"attendance-native=={version}"]


def test_maturin_is_the_same_everywhere() -> None:
    crate = tomllib.loads((ROOT / "worker/native/pyproject.toml").read_text())
    (maturin,) = crate["build-system"]["requires"]
    assert maturin in (ROOT / "deploy/requirements-build.in").read_text().split("\n")
    assert maturin in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
