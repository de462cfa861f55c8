"""One Chromium, and one tenant with a worker and an API, for every test of this folder that does no harm to it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.screen.stage import Stage
from tests.support.browser import Chromium
from tests.support.programs import Program
from tests.support.services import Broker, Redis
from tests.support.serving import served

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def chromium(program: Callable[[str, str], Path]) -> Iterator[Chromium]:
    """A running Chromium; of a module, since Playwright's loop keeps other tests from running theirs in this thread."""
    with Chromium(program("chromium", "chromium")) as browser:
        yield browser


@pytest.fixture(scope="session")
def stage(kafka: Broker, redis_server: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A tenant whose sessions run now, with ids, sources and participants that look like HTML."""
    with served(kafka, redis_server, tmp_path_factory.mktemp("screen")) as api:
        stage = Stage(api)
        stage.publish(stage.sample())
        api.system.until_applied()
        yield stage


@pytest.fixture(scope="session")
def pictures() -> Path:
    """Where the screenshots of a run are kept, for people to look at."""
    folder = HERE.parents[1] / ".artifacts" / "screen"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def axe(installed: Callable[[Program], Path]) -> str:
    """The source of axe-core, which finds faults of accessibility."""
    files = [HERE / "axe" / name for name in ("package.json", "package-lock.json")]
    folder = installed(Program("screen-axe", files, ["npm ci --no-audit --no-fund --silent"]))
    return (folder / "node_modules/axe-core/axe.min.js").read_text()
