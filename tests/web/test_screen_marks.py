"""Marks from the screen: by those who may, from its own pages alone, and to be undone."""

from typing import Any

import httpx
import pytest

from tests.support.screen import Page, page, press
from tests.support.serving import Api, booking_name, event, upserted
from tests.web.test_ops_reads import published
from tests.web.test_screen_views import named
from worker.web.screen.paths import COOKIE, MARK, VIEW_PATHS, link


@pytest.fixture
def listed(api: Api) -> tuple[str, str]:
    """A booking for 3 at a session, of which nothing is known."""
    booking, session = booking_name(), named("marks-")
    published(api, upserted(booking, 3, [{"sessionId": session}]))
    return booking, session


def shown(api: Api, session: str) -> Page:
    return page(api, VIEW_PATHS["session"], id=session)


def attendance(api: Api, booking: str, session: str) -> tuple[Any, ...] | None:
    got = api.get(booking, session)
    found = got.json().get("attendance")
    return None if found is None else (found["status"], found["numberOfAttendees"])


def undo(said: httpx.Response) -> str:
    (button,) = Page(said.text).all("button", data_testid="undo")
    return button.attributes["value"] or ""


def test_the_buttons_of_a_row_mark_it(api: Api, listed: tuple[str, str]) -> None:
    booking, session = listed
    form = shown(api, session)
    values = [str(each.attributes["value"]) for each in form.all("button", form="marks")]
    assert values == [f"ATTENDED:3:{booking}", f"NOT_ATTENDED:0:{booking}", f"NOT_SET:0:{booking}"]
    for value, after in zip(values, [("ATTENDED", 3), ("NOT_ATTENDED", 0), ("NOT_SET", 0)], strict=True):
        said = press(api, form, value)
        assert said.status_code == 200, said.text
        assert booking in said.text
        assert attendance(api, booking, session) == after


def test_undo_sets_back_what_was(api: Api, listed: tuple[str, str]) -> None:
    booking, session = listed
    form = shown(api, session)
    first = press(api, form, f"ATTENDED:3:{booking}")
    assert press(api, form, undo(first)).status_code == 200
    assert attendance(api, booking, session) == ("NOT_SET", 0)
    published(api, event("check_in", booking, session, numberOfAttendees=2))
    marked = press(api, form, f"NOT_ATTENDED:0:{booking}")
    undone = press(api, form, undo(marked))
    assert attendance(api, booking, session) == ("ATTENDED", 2)
    press(api, form, undo(undone))
    assert attendance(api, booking, session) == ("NOT_ATTENDED", 0)


def test_a_form_without_scripts_leads_back_to_its_page(api: Api, listed: tuple[str, str]) -> None:
    booking, session = listed
    form = page(api, VIEW_PATHS["session"], id=session, show="missing")
    fields = {name: form.value(name) for name in ("csrf", "session", "return")}
    said = api.client.post(MARK, data={**fields, "mark": f"ATTENDED:1:{booking}"})
    assert said.status_code == 303
    assert said.headers["location"] == link(VIEW_PATHS["session"], id=session, show="missing")
    assert attendance(api, booking, session) == ("ATTENDED", 1)


def test_a_token_without_manage_sees_no_buttons_and_may_not_mark(api: Api, listed: tuple[str, str]) -> None:
    booking, session = listed
    with httpx.Client(base_url=api.url, cookies={COOKIE: api.tokens["read"]}) as reader:
        html = Page(reader.get(link(VIEW_PATHS["session"], id=session)).text)
        assert not html.all("button", form="marks")
        assert not html.all("form", id="marks")
        csrf = shown(api, session).value("csrf")
        data = {"csrf": csrf, "session": session, "mark": f"ATTENDED:1:{booking}"}
        assert reader.post(MARK, data=data, headers={"hx-request": "true"}).status_code == 403
    assert attendance(api, booking, session) is None


@pytest.mark.parametrize(
    "headers",
    [{"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}, {"origin": "https://evil.example"}, {"origin": "null"}],
)
def test_marks_of_other_sites_are_refused(api: Api, listed: tuple[str, str], headers: dict[str, str]) -> None:
    booking, session = listed
    csrf = shown(api, session).value("csrf")
    data = {"csrf": csrf, "session": session, "mark": f"ATTENDED:1:{booking}"}
    assert api.client.post(MARK, data=data, headers=headers).status_code == 403
    assert attendance(api, booking, session) is None


@pytest.mark.parametrize("csrf", ["", "0" * 64, "ä"])
def test_marks_need_the_token_of_their_page(api: Api, listed: tuple[str, str], csrf: str) -> None:
    booking, session = listed
    assert press(api, shown(api, session), f"ATTENDED:1:{booking}", csrf=csrf).status_code == 403
    with httpx.Client(base_url=api.url, cookies={COOKIE: api.tokens["manage"]}) as other:
        data = {"csrf": shown(api, session).value("csrf"), "session": session, "mark": f"ATTENDED:1:{booking}"}
        assert other.post(MARK, data=data).status_code == 403
    assert attendance(api, booking, session) is None


@pytest.mark.parametrize(
    "value",
    ["", "x", "ATTENDED", "ATTENDED:1", "ATTENDED:1:", "GONE:1:b", "ATTENDED:-1:b", "ATTENDED:100001:b", "ATTENDED:1:\0"],
)
def test_malformed_marks_change_nothing(api: Api, listed: tuple[str, str], value: str) -> None:
    said = press(api, shown(api, listed[1]), value)
    assert said.status_code == 400
    assert 'role="alert"' in said.text
    assert press(api, shown(api, listed[1]), f"ATTENDED:1:{listed[0]}", session="").status_code == 400


def test_a_large_or_malformed_form_is_refused(api: Api) -> None:
    assert api.client.post(MARK, content=b"a=" + b"x" * 20_000).status_code == 413
    assert api.client.post(MARK, content=b"\xff\xfe").status_code in (400, 403)
    assert api.client.post(MARK, content="&".join(f"a{n}=1" for n in range(50)).encode()).status_code == 400


def test_ids_with_colons_and_slashes_are_marked(api: Api) -> None:
    booking, session = named("a:b/c?d&e=f "), named("s:/<b>&")
    published(api, upserted(booking, 1, [{"sessionId": session}]))
    form = shown(api, session)
    (value, *_) = [str(each.attributes["value"]) for each in form.all("button", form="marks")]
    assert press(api, form, value).status_code == 200
    assert attendance(api, booking, session) == ("ATTENDED", 1)
