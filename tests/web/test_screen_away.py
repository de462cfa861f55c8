"""The screen while Redis or the worker is away: it says so, and goes on by itself."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.screen import page, partials, stream
from tests.support.services import Broker, RedisServer
from tests.support.serving import Api, booking_name, event
from tests.support.system import System, running
from tests.web.test_screen_views import named
from worker.web.screen.paths import VIEW_PATHS


@pytest.fixture(scope="module")
def own_api(kafka: Broker, own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A tenant with a Redis of its own."""
    folder: Path = tmp_path_factory.mktemp("screen-away")
    with running(System(kafka, own_redis)) as system, Api(system, folder) as one:
        yield one


def test_redis_stops_and_comes_back(own_api: Api, own_redis: RedisServer) -> None:
    session = named("away-")
    with stream(own_api, "session", id=session) as messages:
        next(messages)
        own_redis.kill()
        told = next(html["freshness"] for each in messages if "data-away" in (html := partials(each)).get("freshness", ""))
        assert "Redis does not answer" in told
        assert "Numbers are those of <time" in told
        for path in VIEW_PATHS.values():
            # the shell of the page with its stream, which fills it later
            shown = page(own_api, path, 503, id=session)
            assert shown.all(id="live")
            assert "Redis does not answer" in shown.text
        own_redis.start()
        own_api.system.until_serving()
        assert any('data-level="live"' in partials(each).get("freshness", "") for each in messages)
        own_api.system.publish([own_api.system.event(event("check_in", booking_name(), session))])
        summaries = (partials(each).get("session-summary", "") for each in messages)
        assert any('<dd data-testid="came">1</dd>' in each for each in summaries)


def test_a_worker_that_is_gone_is_named(own_api: Api) -> None:
    (worker,) = own_api.system.workers
    with stream(own_api, "system") as messages:
        next(messages)
        worker.kill()
        told = next(
            html["freshness"] for each in messages if 'data-level="stopped"' in (html := partials(each)).get("freshness", "")
        )
        assert "no worker owns" in told
    own_api.system.start_worker()
    own_api.system.until_serving()
    with stream(own_api, "system") as messages:
        assert any('data-level="live"' in partials(each).get("freshness", "") for each in messages)
