"""Each view in a browser: its data as it changes, texts of others as text, nothing from elsewhere."""

import time
from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.screen.stage import NASTY, NASTY_VIEWS, SESSION, VIEWS, Stage, path_of
from tests.screen.visiting import is_live, spotless, visiting
from tests.support.browser import Chromium
from tests.support.serving import event
from worker.web.screen.paths import COOKIE

EVERY_VIEW = pytest.mark.parametrize("view", list(VIEWS))


@EVERY_VIEW
def test_a_view_is_complete_and_loads_own_files_alone(chromium: Chromium, stage: Stage, pictures: Path, view: str) -> None:
    with spotless(chromium, stage.api, VIEWS[view]) as visit:
        if view != "history":
            is_live(visit.page)
        expect(visit.page.locator("h1")).to_have_count(1)
        visit.page.screenshot(path=pictures / f"{view}.png", full_page=True)


def test_a_page_follows_though_its_scripts_arrive_late(chromium: Chromium, stage: Stage) -> None:
    """The core of htmx began without its extensions: the page stayed as it was loaded."""
    with chromium.visit(stage.api.url, cookies={COOKIE: stage.api.tokens["read"]}) as visit:
        for script in ("hx-sse", "hx-csp"):
            visit.page.route(f"**/{script}.min.js*", _late)
        with visit.page.expect_request("**/screen/live?*"):
            visit.open(VIEWS["alerts"])
        assert visit.errors == []


def _late(route: Route) -> None:
    time.sleep(0.5)
    route.continue_()


def test_an_event_appears_on_an_open_page(chromium: Chromium, stage: Stage) -> None:
    with spotless(chromium, stage.api, VIEWS["session"]) as visit:
        row = visit.page.get_by_test_id("booking").filter(has=visit.page.get_by_role("link", name="BK-28", exact=True))
        expect(row).to_have_attribute("data-state", "NO_ATTENDANCE")
        came = int(visit.page.get_by_test_id("came").inner_text())
        stage.publish([event("check_in", "BK-28", SESSION, numberOfAttendees=2)])
        expect(row).to_have_attribute("data-state", "ATTENDED")
        expect(visit.page.get_by_test_id("came")).to_have_text(str(came + 1))


def test_alerts_open_and_resolve_before_the_eyes(chromium: Chromium, stage: Stage) -> None:
    with spotless(chromium, stage.api, VIEWS["alerts"]) as visit:
        alert = visit.page.get_by_test_id("alert").filter(has_text="BK-27")
        expect(alert).to_have_count(0)
        stage.publish([event("set", "BK-27", SESSION, status="ATTENDED", numberOfAttendees=0)])
        expect(alert).to_have_attribute("data-kind", "STATUS_COUNT_MISMATCH")
        stage.publish([event("set", "BK-27", SESSION, status="ATTENDED", numberOfAttendees=1)])
        expect(alert).to_have_count(0)


@pytest.mark.parametrize(
    "view", [pytest.param(view, marks=[] if view in ("session", "alerts") else [pytest.mark.slow]) for view in NASTY_VIEWS]
)
def test_text_that_looks_like_html_stays_text(chromium: Chromium, stage: Stage, view: str) -> None:
    with visiting(chromium, stage.api, NASTY_VIEWS[view], "all") as visit:
        page = visit.page
        if view not in ("history", "missing"):
            is_live(page)
        if view != "system":
            assert NASTY in page.locator("main").inner_text()
        assert page.locator("img, #nasty, [onerror]").count() == 0
        # the console complains of a page that is a 404
        assert [each for each in visit.errors if "404" not in each or view != "missing"] == []


def test_text_that_arrives_later_stays_text_too(chromium: Chromium, stage: Stage) -> None:
    later = NASTY + "later"
    with spotless(chromium, stage.api, VIEWS["alerts"]) as visit:
        is_live(visit.page)
        stage.publish([{**event("set", later, later, status="ATTENDED", numberOfAttendees=0), "source": NASTY}])
        expect(visit.page.get_by_test_id("alert").filter(has_text=later)).to_have_count(1)
        assert visit.page.locator("img, #nasty, [onerror]").count() == 0


def test_signing_in_and_out(chromium: Chromium, stage: Stage) -> None:
    with chromium.visit(stage.api.url) as visit:
        page = visit.open(path_of("alerts"))
        page.get_by_label("Token").fill(stage.api.tokens["read"])
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/screen/alerts")
        assert page.evaluate("document.cookie") == ""
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("Token")).to_be_visible()
        visit.open(path_of("alerts"))
        expect(page.get_by_label("Token")).to_be_visible()
        assert visit.errors == []


def test_a_wrong_token_is_refused_in_words(chromium: Chromium, stage: Stage) -> None:
    with chromium.visit(stage.api.url) as visit:
        page = visit.open("/screen/sign-in")
        page.get_by_label("Token").fill("att_wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("unknown or has expired")
        expect(page.get_by_label("Token")).to_be_focused()


@pytest.mark.parametrize(("token", "buttons"), [("read", 0), ("all", 3)])
def test_only_who_may_manage_sees_the_buttons(chromium: Chromium, stage: Stage, token: str, buttons: int) -> None:
    with spotless(chromium, stage.api, path_of("session", id=SESSION, q="BK-29"), token) as visit:
        expect(visit.page.get_by_test_id("booking")).to_have_count(1)
        expect(visit.page.get_by_test_id("booking").get_by_role("button")).to_have_count(buttons)
