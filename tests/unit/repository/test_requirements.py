"""The locked requirements hold all that pyproject.toml asks for, each with one version and the hashes of its files."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"
DOCUMENT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT: dict[str, Any] = DOCUMENT["project"]
#: The extras of each file.
FILES: dict[str, tuple[str, ...]] = {
    "requirements.txt": ("worker", "api"),
    "requirements-run.txt": ("worker", "api", "embedded"),
    "requirements-dev.txt": ("worker", "api", "embedded", "dev"),
}
ENVIRONMENTS = [
    {"python_version": version, "python_full_version": f"{version}.0", "sys_platform": platform, "platform_machine": machine}
    for version in ("3.11", "3.12", "3.13")
    for platform, machine in (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"), ("darwin", "x86_64"))
]
CURE = "run `make lock`"


class Locked(NamedTuple):
    """One entry of a file."""

    requirement: Requirement
    hashes: list[str]

    @property
    def version(self) -> str:
        (one,) = self.requirement.specifier
        assert one.operator == "==", self.requirement
        return one.version


def locked(name: str) -> list[Locked]:
    """Every entry of a file of `deploy/`."""
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", (DEPLOY / name).read_text()))
    found = []
    for line in filter(None, map(str.strip, text.splitlines())):
        requirement, *hashes = re.split(r"\s+--hash=", line)
        found.append(Locked(Requirement(requirement), hashes))
    return found


def asked(extras: Iterable[str]) -> list[Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in PROJECT["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


def applies(marker: Marker | None, environment: dict[str, str]) -> bool:
    return marker is None or marker.evaluate(environment)


@pytest.mark.parametrize("name", [*FILES, "requirements-build.txt"])
def test_every_entry_is_one_version_with_hashes(name: str) -> None:
    entries = locked(name)
    assert entries
    for each in entries:
        assert each.version
        assert each.hashes, f"{each.requirement} has no hash: {CURE}"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", text) for text in each.hashes)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda each: "-".join(each.values()))
def test_every_dependency_is_locked_within_its_range(name: str, environment: dict[str, str]) -> None:
    versions: dict[str, str] = {}
    for each in locked(name):
        if applies(each.requirement.marker, environment):
            key = canonicalize_name(each.requirement.name)
            assert key not in versions, f"{key} is locked twice for {environment}"
            versions[key] = each.version
    for requirement in asked(FILES[name]):
        if applies(requirement.marker, environment):
            found = versions.get(canonicalize_name(requirement.name))
            assert found is not None, f"{name} has no {requirement.name}: {CURE}"
            assert requirement.specifier.contains(found, prereleases=True), f"{name} has {found} of {requirement}: {CURE}"


def test_the_files_agree_on_versions() -> None:
    newest = {each.requirement.name: each for each in locked("requirements-dev.txt")}
    for name in ("requirements.txt", "requirements-run.txt"):
        for each in locked(name):
            assert newest[each.requirement.name] == each, f"{name}: {CURE}"
    for each in locked("requirements-build.txt"):
        assert newest.get(each.requirement.name, each).version == each.version, CURE


def test_the_build_backend_is_locked() -> None:
    versions = {each.requirement.name: each.version for each in locked("requirements-build.txt")}
    for line in DOCUMENT["build-system"]["requires"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(versions[requirement.name]), CURE


#: What the extras bring, by the names that Python imports.
OF_EXTRAS = (
    "aiokafka",
    "cramjam",
    "fastapi",
    "faust",
    "granian",
    "prometheus_client",
    "rich",
    "rocksdict",
    "structlog",
    "typer",
)


def run_without(modules: Iterable[str], code: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a Python that has none of these modules."""
    missing = f"import sys; sys.modules.update(dict.fromkeys({list(modules)!r}))"
    return subprocess.run(
        [sys.executable, "-c", f"{missing}\n{code}"], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )


def test_the_reader_and_the_schemas_need_no_extra() -> None:
    code = "import schemas.decoding.explain, schemas.query.request, worker.read_model.reader, worker.redis.client"
    assert run_without(OF_EXTRAS, code).stderr == ""


@pytest.mark.parametrize(
    ("module", "command"), [("typer", "--version"), ("aiokafka", "--version"), ("faust", "worker"), ("fastapi", "api")]
)
def test_a_command_without_its_packages_names_the_extras(module: str, command: str) -> None:
    ended = run_without([module], f"import sys; sys.argv[1:] = [{command!r}]; from worker.__main__ import main; main()")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr.splitlines() == [
        f"attendance: {module} is not installed: install the extras worker and api (without them only the reader works)"
    ]


def test_an_error_of_the_product_itself_is_not_hidden() -> None:
    ended = run_without(["worker.settings"], "from worker.__main__ import main; main()")
    assert "ModuleNotFoundError" in ended.stderr


@pytest.mark.parametrize("package", ["schemas", "worker"])
def test_type_checkers_of_others_read_the_annotations(package: str) -> None:
    """PEP 561: without this file they take everything for Any."""
    assert (ROOT / package / "py.typed").is_file()
