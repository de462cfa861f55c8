"""Who may see the operations screen: by token in a cookie that nothing else accepts, and without scripts of others."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.serving import Api
from worker.web.screen.assets import ASSETS, asset_url, vendored
from worker.web.screen.paths import COOKIE, LIVE, SIGN_IN, SIGN_OUT, page_at

STATIC = Path(__file__).parents[2] / "worker/web/screen/static"
PAGES = ["/", "/screen/alerts", "/screen/devices", "/screen/system"]


@pytest.fixture
def browser(api: Api) -> Iterator[httpx.Client]:
    """Keeps cookies, and sends no token by itself."""
    with httpx.Client(base_url=api.url, timeout=30) as client:
        yield client


def sign_in(browser: httpx.Client, token: str, **fields: str) -> httpx.Response:
    return browser.post(SIGN_IN, data={"token": token, **fields})


@pytest.mark.parametrize("path", PAGES)
def test_a_page_leads_strangers_to_the_sign_in_and_back(api: Api, browser: httpx.Client, path: str) -> None:
    led = browser.get(path, params={"kind": "CLOCK_AHEAD"})
    assert led.status_code == 303
    assert browser.get(path, params={"path": "x"}).status_code == 303
    page = browser.get(led.headers["location"])
    assert page.status_code == 200
    assert f'value="{path}?kind=CLOCK_AHEAD"' in page.text
    signed = sign_in(browser, f" {api.tokens['read']}\n", next=f"{path}?kind=CLOCK_AHEAD")
    assert (signed.status_code, signed.headers["location"]) == (303, f"{path}?kind=CLOCK_AHEAD")
    assert browser.get(path).status_code == 200


def test_the_cookie_is_kept_from_scripts_and_other_sites(api: Api, browser: httpx.Client) -> None:
    cookie = sign_in(browser, api.tokens["read"]).headers["set-cookie"]
    attributes = {each.strip().lower() for each in cookie.split(";")[1:]}
    assert attributes == {"httponly", "path=/", "samesite=strict"}
    headers = {"x-forwarded-proto": "https"}
    cookie = browser.post(SIGN_IN, data={"token": api.tokens["read"], "keep": "1"}, headers=headers).headers["set-cookie"]
    assert {"secure", "max-age=2592000"} <= {each.strip().lower() for each in cookie.split(";")}


def test_the_cookie_opens_nothing_but_the_screen(api: Api, browser: httpx.Client) -> None:
    sign_in(browser, api.tokens["all"])
    for path in ("/v1/status", "/v1/alerts", "/bookings/v2/attendance/x", "/openapi.json", "/screenx", "/v1/live"):
        assert browser.get(path).status_code == 401, path
    assert browser.post("/bookings/v2/attendance/count", json={"filter": {}}).status_code == 401
    assert browser.post("/v1/events", json={}).status_code == 401
    assert browser.get("/screen/alerts").status_code == 200


@pytest.mark.parametrize("token", ["", "att_wrong", "ä🎟", "x" * 5000])
def test_a_wrong_token_is_called_so(browser: httpx.Client, token: str) -> None:
    said = sign_in(browser, token)
    assert said.status_code == 403
    assert "unknown or has expired" in said.text
    assert "set-cookie" not in said.headers
    assert not token or token not in said.text


def test_a_token_that_may_not_read_is_refused(api: Api, browser: httpx.Client) -> None:
    said = sign_in(browser, api.tokens["publish"])
    assert (said.status_code, "scope read" in said.text, "set-cookie" in said.headers) == (403, True, False)
    browser.cookies.set(COOKIE, api.tokens["publish"])
    said = browser.get("/screen/alerts")
    assert said.status_code == 403
    assert "lacks the scope read" in said.text


def test_signing_out_forgets_the_token(api: Api, browser: httpx.Client) -> None:
    sign_in(browser, api.tokens["read"])
    assert browser.post(SIGN_OUT).headers["location"] == SIGN_IN
    assert browser.get("/screen/alerts").status_code == 303


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
    ],
)
def test_forms_of_other_sites_are_refused(api: Api, browser: httpx.Client, headers: dict[str, str]) -> None:
    said = browser.post(SIGN_IN, data={"token": api.tokens["read"]}, headers=headers)
    assert (said.status_code, "set-cookie" in said.headers) == (403, False)
    sign_in(browser, api.tokens["read"])
    assert browser.post(SIGN_OUT, headers=headers).status_code == 403


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("/screen/session?id=a%2Fb%3Cscript%3E", "/screen/session?id=a%2Fb%3Cscript%3E"),
        ("/?path=a&next=b", "/?path=a&next=b"),
        ("/?x=1\r\nSet-Cookie: a=b", "/?x=1%0D%0ASet-Cookie%3A%20a%3Db"),
        ("https://evil.example/", "/"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("/screen/..//evil.example", "/"),
        ("/screen/alerts#x", "/"),
        ("javascript:alert(1)", "/"),
        ("/v1/status", "/"),
        ("", "/"),
    ],
)
def test_a_sign_in_leads_to_pages_of_the_screen_alone(text: str, page: str) -> None:
    assert page_at(text) == page


@pytest.mark.parametrize("path", [*PAGES, SIGN_IN, "/screen/nowhere", asset_url("screen.css"), f"{LIVE}?view=none"])
def test_every_response_restricts_what_a_page_may_do(api: Api, browser: httpx.Client, path: str) -> None:
    for client in (browser, api.client):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        # with no-referrer browsers send `Origin: null` with forms, and over http nothing else tells them from foreign ones
        assert headers["referrer-policy"] == "same-origin"


def test_pages_hold_no_inline_script_style_or_expression(api: Api) -> None:
    for path in (*PAGES, "/screen/nowhere"):
        text = api.client.get(path).text
        assert "style=" not in text
        assert "<style" not in text
        assert "hx-on" not in text
        assert "js:" not in text
        assert text.count("<script") == text.count("></script>")


def test_errors_are_pages_and_those_of_fragments_are_short(api: Api, browser: httpx.Client) -> None:
    missing = api.client.get("/screen/nowhere")
    assert missing.status_code == 404
    assert missing.headers["content-type"].startswith("text/html")
    assert "Not found" in missing.text
    wrong = api.client.get("/screen/alerts", params={"cursor": "<b>"})
    assert wrong.status_code == 400
    assert "<b>" not in wrong.text
    stranger = browser.get(LIVE, params={"view": "alerts"})
    assert stranger.status_code == 401
    assert "<html" not in stranger.text
    assert browser.get("/screen/nowhere").status_code == 303


def test_files_are_kept_by_their_hash(browser: httpx.Client) -> None:
    for name, asset in ASSETS.items():
        got = browser.get(asset_url(name))
        assert (got.status_code, got.content, got.headers["content-type"]) == (200, asset.content, asset.type)
        assert "immutable" in got.headers["cache-control"]
        again = browser.get(asset_url(name), headers={"if-none-match": got.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert browser.get(f"/screen/static/{name}").headers["cache-control"] == "no-cache"
    for path in ("/screen/static/none.js", "/screen/static/../routes.py", "/screen/static/vendor/manifest.json"):
        assert browser.get(path).status_code in (303, 404)


def test_vendored_files_are_those_of_the_package() -> None:
    manifest = vendored()
    assert manifest["integrity"].startswith("sha512-")
    files = {path.name for path in (STATIC / "vendor").iterdir()} - {"manifest.json"}
    assert files == set(manifest["files"])
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((STATIC / "vendor" / name).read_bytes()).hexdigest() == entry["sha256"], name


def test_without_tokens_nothing_is_asked_of_this_machine(api: Api, tmp_path: Path) -> None:
    with Api(api.system, tmp_path, tokens=False) as one:
        assert one.client.get("/screen/alerts").status_code == 200
        assert one.client.get(SIGN_IN, params={"next": "/screen/system"}).headers["location"] == "/screen/system"
        for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}, {"host": "evil.example"}):
            said = one.client.get("/screen/alerts", headers=headers)
            assert said.status_code == 403
            assert "this machine only" in said.text
