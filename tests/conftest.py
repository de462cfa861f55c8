"""Session fixtures: a broker and a Redis, started for the tests or named by the environment (tests/support/services).

And the order of a run in several processes.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from hypothesis import settings

from tests.support.examples import examples
from tests.support.programs import Program
from tests.support.services import Broker, Redis, RedisCluster, RedisServer, ServiceUnavailable, chosen_broker, chosen_redis
from tests.support.services.debian import debian_program

# an example that takes long on a loaded machine is no failure
settings.register_profile("without deadline", settings.default, deadline=None, max_examples=examples(100))
settings.load_profile("without deadline")

#: Folders in the order in which processes take up their modules. The long modules, which wait for services, come first: one
#: of them at the end would keep one process busy while the others have nothing left.
LANES = ("faults", "integration", "observability", "engine", "screen", "web", "guide", "sdks", "property", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the modules for `make test`, which takes them as they come (``--no-loadscope-reorder``)."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        here = Path(__file__).parent
        items.sort(key=lambda item: LANES.index(item.path.relative_to(here).parts[0]))


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A running broker: Apache Kafka, or what ATTENDANCE_TEST_BROKER and ATTENDANCE_TEST_BROKER_KIND say."""
    broker = chosen_broker(os.environ)
    with contextlib.closing(broker):
        try:
            broker.start()
        except ServiceUnavailable as missing:
            _do_without(request, missing)
        yield broker


@pytest.fixture(scope="session")
def redis_server(request: pytest.FixtureRequest) -> Iterator[Redis]:
    """A running Redis or Valkey without persistence, or the one that ATTENDANCE_TEST_REDIS names."""
    server = chosen_redis(os.environ)
    with contextlib.closing(server):
        try:
            server.start()
        except ServiceUnavailable as missing:
            _do_without(request, missing)
        yield server


@pytest.fixture(scope="session")
def redis_cluster(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    """Three masters without replicas that share the slots."""
    with contextlib.ExitStack() as stack:
        try:
            cluster = stack.enter_context(RedisCluster(3))
        except ServiceUnavailable as missing:
            _do_without(request, missing)
        yield cluster


@pytest.fixture(scope="session")
def program(request: pytest.FixtureRequest) -> Callable[[str, str], Path]:
    """Gives the path of a program by its name and Debian's package, which is installed where this is root."""

    def found(name: str, package: str) -> Path:
        try:
            return debian_program(name, package)
        except ServiceUnavailable as missing:
            _do_without(request, missing)

    return found


@pytest.fixture(scope="session")
def installed(request: pytest.FixtureRequest) -> Callable[[Program], Path]:
    """Installs a program in another language and gives the folder in which it can be run."""

    def there(program: Program) -> Path:
        try:
            return program.installed()
        except ServiceUnavailable as missing:
            _do_without(request, missing)

    return there


def _do_without(request: pytest.FixtureRequest, missing: ServiceUnavailable) -> NoReturn:
    """Fail in CI, skip elsewhere, and say so on the terminal even where pytest does not list skips."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must have this: {missing}", pytrace=False)
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        print(f"\nSKIPPING every test that needs {request.fixturename}: {missing}", file=sys.stderr)
    pytest.skip(str(missing))


@pytest.fixture(scope="session")
def missing(request: pytest.FixtureRequest) -> Callable[[ServiceUnavailable], NoReturn]:
    """Ends a test that does without a service: fails in CI, skips elsewhere."""
    return lambda unavailable: _do_without(request, unavailable)


@pytest.fixture(scope="module")
def own_redis() -> Iterator[RedisServer]:
    """A Redis of the module's own, which it may flush, stop and start again."""
    with RedisServer() as server:
        yield server
