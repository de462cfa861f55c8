"""An open page while Redis, the worker and the API stop: it says so in words, and is current again by itself afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.screen.stage import SESSION, VIEWS, Stage
from tests.screen.visiting import is_live, visiting
from tests.support.browser import Chromium, aside
from tests.support.services import Broker, RedisServer
from tests.support.serving import event, served

#: A worker that starts again joins its group, reads its tables and fills the read models.
RECOVERY_SECONDS = 60


@pytest.fixture(scope="module")
def harmed(kafka: Broker, own_redis: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A tenant of its own."""
    with served(kafka, own_redis, tmp_path_factory.mktemp("harmed")) as api:
        stage = Stage(api)
        stage.publish(stage.sample())
        api.system.until_applied()
        yield stage


def counts_on(page: Page, stage: Stage, booking: str) -> None:
    """The open page shows what happens now."""
    row = page.get_by_test_id("booking").filter(has=page.get_by_role("link", name=booking, exact=True))
    stage.publish([event("check_in", booking, SESSION)])
    expect(row).to_have_attribute("data-state", "ATTENDED", timeout=RECOVERY_SECONDS * 1000)


def unexpected(errors: list[str]) -> list[str]:
    """Without what the browser and htmx write about requests that could not be answered."""
    usual = ("Failed to load resource", "ERR_CONNECTION_REFUSED", "htmx:sse:error")
    return [each for each in errors if not any(words in each for words in usual)]


def test_redis_stops(harmed: Stage, own_redis: RedisServer, chromium: Chromium, pictures: Path) -> None:
    with visiting(chromium, harmed.api, VIEWS["session"]) as visit:
        page = visit.page
        is_live(page)
        rows = page.get_by_test_id("booking").count()
        own_redis.stop()
        freshness = page.get_by_test_id("freshness")
        expect(freshness.locator("[data-level=stopped]")).to_be_visible()
        expect(freshness).to_contain_text("Redis")
        expect(freshness).to_contain_text("Numbers are those of")
        # what was there stays readable
        assert page.get_by_test_id("booking").count() == rows
        page.screenshot(path=pictures / "redis-away.png")
        own_redis.start()
        is_live(page, RECOVERY_SECONDS)
        counts_on(page, harmed, "BK-26")
        assert unexpected(visit.errors) == []


@pytest.mark.slow
def test_a_page_opened_while_redis_is_away_fills_itself(harmed: Stage, own_redis: RedisServer, chromium: Chromium) -> None:
    own_redis.stop()
    with visiting(chromium, harmed.api, VIEWS["session"]) as visit:
        expect(visit.page.locator("main")).to_contain_text("Nothing can be read now")
        own_redis.start()
        expect(visit.page.get_by_test_id("booking")).to_have_count(31, timeout=RECOVERY_SECONDS * 1000)
        is_live(visit.page, RECOVERY_SECONDS)
        assert unexpected(visit.errors) == []


@pytest.mark.slow
def test_the_worker_stops(harmed: Stage, chromium: Chromium) -> None:
    with visiting(chromium, harmed.api, VIEWS["session"]) as visit:
        is_live(visit.page)
        harmed.api.system.workers[-1].kill()
        freshness = visit.page.get_by_test_id("freshness")
        expect(freshness.locator("[data-level=stopped]")).to_be_visible(timeout=RECOVERY_SECONDS * 1000)
        expect(freshness).to_contain_text("worker")
        harmed.api.system.start_worker()
        is_live(visit.page, RECOVERY_SECONDS)
        counts_on(visit.page, harmed, "BK-27")
        assert unexpected(visit.errors) == []


def test_the_api_restarts(harmed: Stage, chromium: Chromium) -> None:
    with visiting(chromium, harmed.api, VIEWS["session"]) as visit:
        page = visit.page
        is_live(page)
        harmed.api.stop()
        expect(page.locator("html[data-connection=lost]")).to_be_attached()
        expect(page.get_by_test_id("connection")).to_contain_text("Connection lost at")
        harmed.api.start()
        expect(page.get_by_test_id("connection")).to_be_empty(timeout=RECOVERY_SECONDS * 1000)
        is_live(page)
        counts_on(page, harmed, "BK-28")
        assert unexpected(visit.errors) == []


@pytest.mark.slow
def test_a_revoked_token_ends_the_page(harmed: Stage, chromium: Chromium) -> None:
    with visiting(chromium, harmed.api, VIEWS["alerts"], "ingest") as visit:
        expect(visit.page.locator("main")).to_contain_text("lacks the scope read")
    with visiting(chromium, harmed.api, VIEWS["alerts"], "read") as visit:
        is_live(visit.page)
        aside(lambda: harmed.api.system.run_cli("tokens", "revoke", "read", ATTENDANCE_API_TOKENS=str(harmed.api.tokens_file)))
        expect(visit.page.locator("html[data-connection=signed-out]")).to_be_attached(timeout=30_000)
        expect(visit.page.get_by_role("link", name="Sign in")).to_be_visible()
