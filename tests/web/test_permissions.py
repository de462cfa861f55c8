"""Who may publish which event over HTTP: scopes, and tokens bound to a source prefix."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.serving import Api, booking_name, event, upserted
from tests.web.test_attendances import problem
from worker.ops import erase
from worker.web.auth import Scope, TokensError, create_token, read_tokens
from worker.web.permissions import is_within, names_the_api

BATCH = "application/cloudevents-batch+json"
NORTH = "/gates/north"
DEVICES = ["check_in", "no_show", "participant_scanned"]
STAFF = ["set", "cleared", "deleted"]


def document(kind: str, booking: str, source: str = "/devices/kiosk-7") -> dict[str, Any]:
    """An event of any type that is good in itself."""
    if kind == "booking.upserted":
        return {**upserted(booking, 2, []), "source": source}
    if kind.startswith("booking."):
        made = event("x", booking, "")
        return {**made, "type": kind, "data": {"bookingId": booking}, "source": source}
    more = {"participant_scanned": {"participantId": "p1"}, "set": {"status": "ATTENDED"}}.get(kind, {})
    return {**event(kind, booking, "s1", **more), "source": source}


def send(api: Api, token: str, *documents: dict[str, Any]) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}", "content-type": BATCH}
    return httpx.post(f"{api.url}/v1/events", headers=headers, content=json.dumps(documents), timeout=30)


def bound(api: Api, source: str, *scopes: Scope) -> str:
    """A token bound to a source prefix; the API sees it within a second."""
    name = f"bound-{len(read_tokens(api.tokens_file))}"
    token = create_token(api.tokens_file, scopes or [Scope.PUBLISH], name, None, time.time(), source)
    deadline = time.monotonic() + 10
    while send(api, token).status_code == 401:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return token


@pytest.mark.parametrize("kind", [*DEVICES, *STAFF, "booking.erased", "booking.upserted", "booking.deleted"])
def test_each_scope_publishes_its_types_alone(api: Api, kind: str) -> None:
    """With one scope for all: a device erases bookings and overwrites what staff have set."""
    needed = "publish" if kind in DEVICES else "ingest" if kind in ("booking.upserted", "booking.deleted") else "manage"
    for scope in ("publish", "ingest", "manage"):
        said = send(api, api.tokens[scope], document(kind, booking_name()))
        assert said.status_code == (202 if scope in (needed, "manage") else 403), (scope, said.text)
    assert problem(send(api, api.tokens["read"], document(kind, booking_name())), 403) == "MISSING_SCOPE"


def test_a_refusal_names_each_event_and_publishes_none(api: Api) -> None:
    booking = booking_name()
    good, bad = document("check_in", booking), document("deleted", booking)
    said = send(api, api.tokens["publish"], good, bad, document("booking.upserted", booking), {**good, "source": "/api"})
    assert problem(said, 403) == "NOT_PERMITTED"
    named = said.json()["details"]["applicationError"]["data"]["events"]
    assert [each["field"] for each in named] == ["1.type", "2.type", "3.source"]
    api.system.until_applied()
    assert api.get(booking, "s1").status_code == 404


@pytest.mark.parametrize("token", ["publish", "ingest", "manage", "all"])
def test_nobody_speaks_in_the_name_of_the_api(api: Api, token: str) -> None:
    kind = "booking.deleted" if token == "ingest" else "check_in"
    assert problem(send(api, api.tokens[token], document(kind, booking_name(), "/api")), 403) == "NOT_PERMITTED"


@pytest.mark.parametrize(
    ("source", "is_its"),
    [
        ("/api", True),
        ("/api/", True),
        ("/api/kiosk-7", True),
        (erase.SOURCE, True),
        ("//api", True),
        ("/API", True),
        ("/%61pi", True),
        ("%2Fapi", True),
        ("/api%2Fkiosk", True),
        (" /api ", True),
        ("\u200b/api", True),
        ("/a\u200bpi", True),
        ("/ａｐｉ", True),
        ("/./api", True),
        ("/gates/../api", True),
        ("/apis", False),
        ("/api-gateway", False),
        ("/gates/api", False),
        ("api", False),
        ("https://shop.example/api", False),
        ("/api/..", False),
    ],
)
def test_sources_that_pass_for_the_api(source: str, is_its: bool) -> None:
    assert names_the_api(source) is is_its


def test_a_bound_token_publishes_its_sources_alone(api: Api) -> None:
    token = bound(api, NORTH)
    for source, status in ((NORTH, 202), (f"{NORTH}/kiosk-1", 202), ("/gates/northern", 403), ("/gates", 403), ("/x", 403)):
        assert send(api, token, document("check_in", booking_name(), source)).status_code == status, source
    booking_system = bound(api, "/shop", Scope.INGEST)
    assert send(api, booking_system, document("booking.upserted", booking_name(), "/shop/1")).status_code == 202
    assert send(api, booking_system, document("booking.upserted", booking_name(), "/other")).status_code == 403


def test_a_bound_device_clears_what_its_own_gate_reported(api: Api) -> None:
    token, booking = bound(api, NORTH), booking_name()
    assert send(api, token, document("cleared", booking, NORTH)).status_code == 202, "nothing is shown yet"
    assert send(api, token, document("check_in", booking, f"{NORTH}/kiosk-1")).status_code == 202
    api.system.until_applied()
    assert send(api, token, document("cleared", booking, f"{NORTH}/kiosk-2")).status_code == 202
    api.system.until_applied()
    assert api.set(booking, "s1", "ATTENDED", 1).status_code == 200
    said = send(api, token, document("cleared", booking, NORTH))
    assert problem(said, 403) == "NOT_PERMITTED"
    assert api.get(booking, "s1").json()["attendance"]["status"] == "ATTENDED"


@pytest.mark.parametrize("value", ['"{}"', "{}"])
def test_binary_headers_come_out_of_their_quotes(api: Api, value: str) -> None:
    """The HTTP binding has a receiver take the quotes off first, and then percent-decode once."""
    booking = booking_name()
    made = {**document("check_in", booking), "source": "/kiosk%207%25 \\" + '"a' if '"' in value else "/kiosk%207%25"}
    headers = {f"ce-{name}": value.format(text) for name, text in made.items() if name != "data"}
    headers |= {"authorization": f"Bearer {api.tokens['publish']}", "content-type": "application/json"}
    said = httpx.post(f"{api.url}/v1/events", headers=headers, content=json.dumps(made["data"]), timeout=30)
    assert said.status_code == 202, said.text
    api.system.until_applied()
    shown = api.get(booking, "s1").json()["attendance"]["source"]
    assert shown == ('/kiosk 7% "a' if '"' in value else "/kiosk 7%")


def test_a_quote_that_does_not_end_is_named(api: Api) -> None:
    headers = {"authorization": f"Bearer {api.tokens['publish']}", "content-type": "application/json", "ce-id": '"1'}
    said = httpx.post(f"{api.url}/v1/events", headers=headers, content=b"{}", timeout=30)
    assert problem(said, 400) == "MALFORMED_HEADER"
    assert "ce-id" in said.text


@pytest.mark.parametrize(
    ("source", "prefix", "within"),
    [("/a", "/a", True), ("/a/b", "/a", True), ("/a/b", "/a/", True), ("/ab", "/a", False), ("/A/b", "/a", False)]
    + [("/a/../b", "/a", False), ("/a/%2e%2E/b", "/a", False), ("/a/./b", "/a", False), ("/a/..b", "/a", True)],
)
def test_a_prefix_ends_at_a_slash(source: str, prefix: str, within: bool) -> None:
    assert is_within(source, prefix) is within


@pytest.mark.parametrize("source", ["", "/", "//", "/api", "/API/", "/api/x", "a\nb", "x" * 257])
def test_a_prefix_that_binds_to_nothing_is_refused(tmp_path: Path, source: str) -> None:
    with pytest.raises(TokensError, match="--source"):
        create_token(tmp_path / "t", [Scope.PUBLISH], "a", None, 1.0, source)


def test_a_prefix_may_be_written_with_its_slash(tmp_path: Path) -> None:
    create_token(tmp_path / "t", [Scope.PUBLISH], "a", None, 1.0, f"{NORTH}/")
    assert [token.source for token in read_tokens(tmp_path / "t")] == [NORTH]


def test_a_token_bound_to_all_clears_nothing_of_the_staff(api: Api) -> None:
    """A prefix that was written to the file by hand, the root, has what the API published below it too."""
    token, booking = bound(api, NORTH), booking_name()
    document_ = json.loads(api.tokens_file.read_text())
    document_["tokens"][-1]["source"] = "/"
    api.tokens_file.write_text(json.dumps(document_))
    assert api.set(booking, "s1", "ATTENDED", 1).status_code == 200
    deadline = time.monotonic() + 10
    while send(api, token, document("check_in", booking_name(), "/x")).status_code == 403:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert problem(send(api, token, document("cleared", booking, NORTH)), 403) == "NOT_PERMITTED"


@pytest.mark.parametrize("bad", ["100%", "%zz", "%e", "%C3", "%ED%A0%80", '"%G0"', '"a'])
def test_a_header_that_is_not_well_encoded_is_named(api: Api, bad: str) -> None:
    made = document("check_in", booking_name())
    headers = {f"ce-{name}": text for name, text in made.items() if name != "data"} | {"ce-source": bad}
    headers |= {"authorization": f"Bearer {api.tokens['publish']}", "content-type": "application/json"}
    said = httpx.post(f"{api.url}/v1/events", headers=headers, content=json.dumps(made["data"]), timeout=30)
    assert problem(said, 400) == "MALFORMED_HEADER"
    assert said.json()["message"].startswith("ce-source: ")


def test_a_link_to_the_tokens_stays_a_link(tmp_path: Path) -> None:
    """With the link replaced by a file: the mounted secret it led to no longer changes."""
    real, link = tmp_path / "mounted" / "tokens.json", tmp_path / "tokens.json"
    real.parent.mkdir()
    link.symlink_to(real)
    create_token(link, [Scope.READ], "one", None, 1.0)
    real.chmod(0o640)
    create_token(link, [Scope.PUBLISH], "two", None, 2.0, NORTH)
    assert link.is_symlink()
    assert [(token.name, token.source) for token in read_tokens(real)] == [("one", None), ("two", NORTH)]
    assert real.stat().st_mode & 0o777 == 0o640
