"""The screen for people without a mouse, without eyes, with small and large displays: axe-core and the keyboard."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.screen.stage import SESSION, VIEWS, Stage, path_of
from tests.screen.visiting import is_live, spotless, visiting
from tests.support.browser import Chromium

SIGN_IN = "/screen/sign-in"
STATES = {
    "sign-in": SIGN_IN,
    "not found": path_of("session", id="nowhere"),
    "wrong": path_of("alerts", kind="NONE"),
    "mark": path_of("session", id=SESSION, q="BK-29"),
}
#: What a display and its owner may be.
DISPLAYS: dict[str, dict[str, Any]] = {
    "light": {"scheme": "light"},
    "dark": {"scheme": "dark"},
    "phone": {"size": (360, 740), "scheme": "light"},
    "dark phone": {"size": (360, 740), "scheme": "dark"},
    "wall": {"size": (3840, 2160), "scheme": "dark"},
}
_RUN_AXE = """async () => {
    const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
    const result = await axe.run(document, {runOnly: {type: "tag", values: tags}});
    return result.violations.map(each => `${each.id}: ${each.help}: ` + each.nodes.map(
        node => `${node.target} ${node.html.slice(0, 200)} ${node.failureSummary}`).slice(0, 3).join(" | "));
}"""


def _cases() -> Iterator[Any]:
    """Every view on every display; with one display a view in the fast run, so that each display has a turn."""
    displays = list(DISPLAYS)
    for number, view in enumerate([*VIEWS, *STATES]):
        for display in displays:
            is_slow = display != displays[number % len(displays)]
            yield pytest.param(view, display, marks=[pytest.mark.slow] if is_slow else [], id=f"{view}-{display}")


@pytest.mark.parametrize(("view", "display"), list(_cases()))
def test_axe_finds_nothing_on_a_display(chromium: Chromium, stage: Stage, axe: str, view: str, display: str) -> None:
    path = (VIEWS | STATES)[view]
    # the policy would refuse the script of axe, which is no part of the page
    with visiting(chromium, stage.api, path, "all", has_csp=False, **DISPLAYS[display]) as visit:
        page = visit.page
        if view in VIEWS and view != "history":
            is_live(page)
        if view == "mark":
            page.get_by_test_id("booking").get_by_role("button", name="Came").click()
            expect(page.get_by_test_id("undo")).to_be_visible()
        widths = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert widths[0] <= widths[1], "the page scrolls sideways"
        page.evaluate(axe)
        assert page.evaluate(_RUN_AXE) == []


_FOCUSABLE = """() => {
    const chosen = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']";
    window.focusable = [...document.querySelectorAll(chosen)].filter(each => each.checkVisibility() && !each.disabled);
    return window.focusable.map(each => each.outerHTML.slice(0, 120));
}"""
_FOCUSED = """() => {
    const style = getComputedStyle(document.activeElement);
    const outlined = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
    return [window.focusable.indexOf(document.activeElement), outlined || style.boxShadow !== "none"];
}"""


#: Views whose tab order the fast run follows: those with the most and with the fewest fields.
_TABBED = {"session", "now"}


@pytest.mark.parametrize(
    "view", [pytest.param(view, marks=[] if view in _TABBED else [pytest.mark.slow]) for view in [*VIEWS, "mark"]]
)
def test_the_tab_key_reaches_everything_visibly(chromium: Chromium, stage: Stage, view: str) -> None:
    with spotless(chromium, stage.api, (VIEWS | STATES)[view], "all") as visit:
        page = visit.page
        if view != "history":
            is_live(page)
        page.evaluate("document.activeElement.blur()")
        names = page.evaluate(_FOCUSABLE)
        missing = set(range(len(names)))
        for _ in range(len(names) + 5):
            page.keyboard.press("Tab")
            place, is_visible = page.evaluate(_FOCUSED)
            assert place < 0 or is_visible, f"focus is not visible: {names[place]}"
            missing.discard(place)
        assert not missing, [names[place] for place in missing]


def test_the_skip_link_leads_to_the_content(chromium: Chromium, stage: Stage) -> None:
    with spotless(chromium, stage.api, VIEWS["alerts"]) as visit:
        page = visit.page
        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the content")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport()
        page.keyboard.press("Enter")
        expect(page.locator("main")).to_be_focused()


def test_the_keyboard_alone_marks_and_undoes(chromium: Chromium, stage: Stage) -> None:
    with spotless(chromium, stage.api, path_of("session", id=SESSION, q="BK-26"), "all") as visit:
        page = visit.page
        row = page.get_by_test_id("booking")
        _tab_to(page, "Absent: BK-26")
        page.keyboard.press("Enter")
        expect(row).to_have_attribute("data-state", "NOT_ATTENDED")
        _tab_to(page, "Undo", back=True)
        page.keyboard.press("Enter")
        expect(row).not_to_have_attribute("data-state", "NOT_ATTENDED")


def _tab_to(page: Page, text: str, *, back: bool = False) -> None:
    """Presses Tab until the element with this text has the focus."""
    for _ in range(40):
        page.keyboard.press("Shift+Tab" if back else "Tab")
        if page.evaluate("document.activeElement.textContent").strip() == text:
            return
    raise AssertionError(f"Tab does not reach {text}")
