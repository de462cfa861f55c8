"""One tenant with a worker and an API for every test of this folder that does no harm to it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.services import Broker, Redis
from tests.support.serving import Api, served


@pytest.fixture(scope="session")
def api(kafka: Broker, redis_server: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A running API, with tokens of every scope."""
    folder: Path = tmp_path_factory.mktemp("api")
    with served(kafka, redis_server, folder) as one:
        yield one
