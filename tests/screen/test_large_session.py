"""A session of 10,000 bookings: pages, search, filter, sort, marks with undo."""

import time

import pytest
from playwright.sync_api import Page, expect

from tests.screen.stage import Stage, listed, path_of
from tests.screen.visiting import is_live, spotless
from tests.support.browser import Chromium, aside
from tests.support.serving import MINUTE, event, upserted

SESSION, BOOKINGS, ATTENDED = "congress", 10_000, 3_000


def name(number: int) -> str:
    return f"C-{number:05d}"


@pytest.fixture(scope="module")
def congress(stage: Stage) -> str:
    """The path of the session; every third booking has come, as long as there are some."""
    now = time.time_ns() // 1000
    sessions = [listed(SESSION, now - 10 * MINUTE, now + 50 * MINUTE)]
    stage.publish(upserted(name(number), 1, sessions) for number in range(BOOKINGS))
    stage.publish(event("check_in", name(3 * number), SESSION) for number in range(ATTENDED))
    aside(lambda: stage.api.system.until_applied(120))
    return path_of("session", id=SESSION)


#: The fast run has the same pages, filters and marks over HTTP, in tests/web.
pytestmark = pytest.mark.slow


def shown(page: Page) -> list[str]:
    """The bookingIds of the page."""
    return page.get_by_test_id("booking").get_by_role("rowheader").all_inner_texts()


def test_pages_follow_on_without_gaps(chromium: Chromium, stage: Stage, congress: str) -> None:
    with spotless(chromium, stage.api, congress) as visit:
        page, seen = visit.page, list[str]()
        is_live(page)
        expect(page.get_by_test_id("booked")).to_have_text("10,000")
        while len(seen) < 150:
            seen += shown(page)
            last = seen[-1]
            page.get_by_role("link", name="Next page").click()
            expect(page.get_by_role("rowheader", name=last, exact=True)).to_have_count(0)
        assert seen == [name(number) for number in range(len(seen))]
        page.get_by_role("link", name="First page").click()
        expect(page.get_by_role("rowheader", name=name(0), exact=True)).to_be_visible()


def test_search_filter_and_sort(chromium: Chromium, stage: Stage, congress: str) -> None:
    with spotless(chromium, stage.api, congress) as visit:
        page = visit.page
        page.get_by_label("bookingId begins with").fill("C-0900")
        page.keyboard.press("Enter")
        expect(page.get_by_test_id("booking")).to_have_count(10)
        assert shown(page) == [name(number) for number in range(9000, 9010)]
        page.get_by_label("bookingId begins with").fill("C-008")
        page.get_by_label("Show").select_option("Came")
        page.get_by_role("button", name="Apply").click()
        expect(page.get_by_role("rowheader", name=name(801), exact=True)).to_be_visible()
        assert shown(page) == [name(number) for number in range(801, 900, 3)]
        visit.open(congress)
        page.get_by_label("Sort by").select_option("Status")
        page.get_by_label("Show").select_option("All")
        page.get_by_role("button", name="Apply").click()
        expect(page.get_by_role("rowheader", name=name(3), exact=True)).to_be_visible()
        assert shown(page) == [name(3 * number) for number in range(len(shown(page)))]


def test_a_mark_is_undone(chromium: Chromium, stage: Stage, congress: str) -> None:
    with spotless(chromium, stage.api, f"{congress}&q=C-05000", "all") as visit:
        page = visit.page
        row, undo = page.get_by_test_id("booking"), page.get_by_test_id("undo")
        for button, state, other in (("Came", "ATTENDED", "NOT_SET"), ("Absent", "NOT_ATTENDED", "NOT_SET")):
            row.get_by_role("button", name=button).click()
            expect(page.get_by_test_id("marked")).to_contain_text(name(5000))
            expect(row).to_have_attribute("data-state", state)
            undo.click()
            expect(row).to_have_attribute("data-state", other)


def test_a_mark_of_one_who_came_is_undone_exactly(chromium: Chromium, stage: Stage, congress: str) -> None:
    """What a device reported is there again, with its number."""
    stage.publish([event("check_in", name(9999), SESSION, numberOfAttendees=4)])
    with spotless(chromium, stage.api, f"{congress}&q={name(9999)}", "all") as visit:
        page = visit.page
        row = page.get_by_test_id("booking")
        expect(row).to_contain_text("4 of 1")
        row.get_by_role("button", name="Clear").click()
        expect(row).to_have_attribute("data-state", "NOT_SET")
        page.get_by_test_id("undo").click()
        expect(row).to_have_attribute("data-state", "ATTENDED")
        expect(row).to_contain_text("4 of 1")
