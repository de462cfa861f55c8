"""HEAD, and OPTIONS for configured origins: preflights of web pages, handshakes of webhook senders."""

from collections.abc import Iterator

import httpx
import pytest

from tests.support.services.processes import wait_until
from tests.support.serving import Api, identity
from tests.web.test_auth import CALLS
from worker.settings import SettingsError, load_settings
from worker.web.middleware import PUBLIC

PAGE, EVENTS = "https://app.example.org", "/v1/events"
#: But for the stream, whose GET does not end.
READ = [path for method, path, _ in CALLS if method == "GET" and path != "/v1/live"] + sorted(PUBLIC)


@pytest.fixture(scope="module", params=[True, False], ids=["tokens", "open"])
def listed(api: Api, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Api]:
    """An API that knows a page and two webhook senders, with tokens and without."""
    origins = f"{PAGE}, https://grid.example:8443,eventgrid.example"
    folder = tmp_path_factory.mktemp("listed")
    with Api(api.system, folder, tokens=request.param, ATTENDANCE_API_CORS_ORIGINS=origins) as one:
        yield one


def options(api: Api, path: str = EVENTS, **headers: str) -> httpx.Response:
    """Without a token: neither browsers nor handshakes send one."""
    return httpx.options(api.url + path, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize("path", READ)
def test_head_is_answered_wherever_get_is(api: Api, path: str) -> None:
    differing = {"date"} | ({"content-length"} if path == "/metrics" else set())

    def described() -> bool:
        """Whether both have the same headers, with the length of an answer that may name the time between them."""
        get, head = api.client.get(path), api.client.head(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert get.headers.keys() == head.headers.keys() >= {"content-length"}
        return {n: v for n, v in head.headers.items() if n not in differing} == {
            n: v for n, v in get.headers.items() if n not in differing
        }

    assert wait_until(described, 10)
    if path not in PUBLIC:
        assert httpx.head(api.url + path).status_code == 401


def test_head_is_counted_as_head(api: Api) -> None:
    api.client.head(f"/bookings/v2/attendance/{identity('nobody', 'nowhere')}")
    wanted = 'method="HEAD",route="/bookings/v2/attendance/{id}",status="404"'
    assert wait_until(lambda: wanted in api.client.get("/metrics").text, 5)


def test_a_preflight_of_a_listed_page(listed: Api) -> None:
    asked = "authorization,content-type,ce-id"
    said = options(
        listed,
        origin=PAGE,
        access_control_request_method="POST",
        access_control_request_headers=asked,
        sec_fetch_site="cross-site",
    )
    assert (said.status_code, said.content) == (204, b"")
    assert said.headers["access-control-allow-origin"] == PAGE
    assert said.headers["access-control-allow-headers"] == asked
    assert "POST" in said.headers["access-control-allow-methods"]
    assert said.headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", ["https://evil.example.org", "http://app.example.org", f"{PAGE}.evil.org", "null", ""])
def test_a_preflight_of_another_page(listed: Api, origin: str) -> None:
    said = options(listed, origin=origin, access_control_request_method="POST")
    assert said.status_code in (401, 403, 405)
    assert not [name for name in said.headers if name.startswith("access-control")]


def test_answers_name_a_listed_page(listed: Api) -> None:
    for headers in ({"origin": PAGE}, {"origin": PAGE, "sec-fetch-site": "cross-site"}):
        for said in (
            listed.client.get("/v1/status", headers=headers),
            listed.client.get("/nowhere", headers=headers),
            listed.client.get("/healthz", headers=headers),
        ):
            assert said.status_code in (200, 404)
            assert said.headers["access-control-allow-origin"] == PAGE
            assert "retry-after" in said.headers["access-control-expose-headers"]
    other = listed.client.get("/v1/status", headers={"origin": "https://evil.example.org"})
    assert "access-control-allow-origin" not in other.headers
    assert other.headers["vary"] == "Origin"


@pytest.mark.parametrize("sender", ["eventgrid.example", "EventGrid.example", "app.example.org", "grid.example"])
@pytest.mark.parametrize(("asked", "granted"), [("120", "120"), ("*", "*"), (None, "*")])
def test_a_handshake_of_a_listed_sender(listed: Api, sender: str, asked: str | None, granted: str) -> None:
    rate = {} if asked is None else {"webhook_request_rate": asked}
    said = options(listed, webhook_request_origin=sender, webhook_request_callback="https://x.example/confirm?id=1", **rate)
    assert said.status_code == 200
    assert said.headers["webhook-allowed-origin"] == sender
    assert said.headers["webhook-allowed-rate"] == granted
    assert said.headers["allow"] == "POST"


@pytest.mark.parametrize("rate", ["0", "-1", "1.5", "many", "99999999999999999999"])
def test_a_handshake_with_no_rate(listed: Api, rate: str) -> None:
    said = options(listed, webhook_request_origin="eventgrid.example", webhook_request_rate=rate)
    assert (said.status_code, "webhook-allowed-origin" in said.headers) == (400, False)


def test_other_handshakes_are_not_granted(listed: Api, api: Api) -> None:
    for one, path, sender in (
        (listed, EVENTS, "evil.example"),
        (listed, EVENTS, "x.eventgrid.example"),
        (listed, EVENTS, ""),
        (listed, "/v1/status", "eventgrid.example"),
        (api, EVENTS, "eventgrid.example"),
    ):
        said = options(one, path, webhook_request_origin=sender)
        assert said.status_code in (401, 405)
        assert not [name for name in said.headers if name.startswith("webhook")]


def test_a_star_grants_handshakes_but_no_page_without_tokens(api: Api, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Api(api.system, tmp_path_factory.mktemp("all"), tokens=False, ATTENDANCE_API_CORS_ORIGINS="*") as one:
        assert options(one, webhook_request_origin="any.example").headers["webhook-allowed-origin"] == "any.example"
        # without tokens no page of elsewhere may ask
        assert one.client.get("/v1/status", headers={"origin": PAGE}).status_code == 403


@pytest.mark.parametrize("text", ["https://", "app.example.org/path", "ftp://a", "a b", "https://a:b@c", "javascript:x", "a;b"])
def test_malformed_origins_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="ATTENDANCE_API_CORS_ORIGINS"):
        load_settings(_env_file=None, api_cors_origins=text)
