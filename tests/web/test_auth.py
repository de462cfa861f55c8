"""Nobody gets in who should not, and nothing leaks."""

import asyncio
import itertools
import json
import random
import re
import secrets
import stat
import time
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from tests.support.services.processes import wait_until
from tests.support.serving import Api, identity
from tests.web.test_attendances import problem
from worker.cli.commands import app
from worker.settings import Settings, SettingsError
from worker.web import auth as tokens_module
from worker.web.app import create_app
from worker.web.auth import (
    Scope,
    TokenFile,
    TokensError,
    create_token,
    presented_token,
    read_tokens,
    revoke_token,
)
from worker.web.middleware import PUBLIC
from worker.web.openapi import document

READ, MANAGE = (Scope.READ,), (Scope.MANAGE,)
#: Every call with the scopes that it should need, of which one is enough: written by hand, as the code must not decide it.
SCOPES = {
    "GET /bookings/v2/attendance/{id}": READ,
    "POST /bookings/v2/attendance/query": READ,
    "POST /bookings/v2/attendance/count": READ,
    "POST /bookings/v2/attendance/set": MANAGE,
    "POST /bookings/v2/bulk/attendance/set": MANAGE,
    "POST /bookings/v2/bulk/attendance/delete": MANAGE,
    "DELETE /bookings/v2/attendance/{id}": MANAGE,
    "GET /v1/sessions": READ,
    "GET /v1/sessions/{sessionId}": READ,
    "GET /v1/sessions/{sessionId}/bookings": READ,
    "GET /v1/sessions/{sessionId}/arrivals": READ,
    "GET /v1/devices": READ,
    "GET /v1/bookings/{bookingId}": READ,
    "GET /v1/bookings": READ,
    "GET /v1/alerts": READ,
    "GET /v1/operations": READ,
    "GET /v1/attendance/{id}/history": READ,
    "GET /v1/status": READ,
    "GET /v1/live": READ,
    "POST /v1/events": (Scope.PUBLISH, Scope.INGEST, Scope.MANAGE),
    "GET /openapi.json": READ,
}
PATHS = document(create_app(Settings(_env_file=None)))["paths"]  # type: ignore[call-arg]
#: The same, with something in place of a path's parameters that names nothing.
CALLS = [(*re.sub(r"\{\w+\}", identity("nobody", "nowhere"), call).split(" "), scopes) for call, scopes in SCOPES.items()]


def ask(api: Api, method: str, path: str, **headers: str) -> httpx.Response:
    content = b"{}" if method == "POST" else None
    with httpx.stream(method, api.url + path, headers=headers, content=content) as answer:
        # live values have no end
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            answer.read()
        return answer


@pytest.mark.parametrize(("method", "path", "scopes"), CALLS)
def test_every_call_asks_for_its_scope(api: Api, method: str, path: str, scopes: tuple[str, ...]) -> None:
    without = ask(api, method, path)
    assert problem(without, 401) == "UNAUTHENTICATED"
    assert without.headers["www-authenticate"].startswith("Bearer")
    assert problem(ask(api, method, path, authorization="Bearer att_wrong"), 401) == "UNAUTHENTICATED"
    for other in set(Scope) - set(scopes):
        refused = ask(api, method, path, authorization=f"Bearer {api.tokens[other]}")
        assert problem(refused, 403) == "MISSING_SCOPE"
        assert refused.json()["details"]["applicationError"]["data"] == {"scope": scopes[0]}
    scope = scopes[0]
    for spelled in (f"Bearer {api.tokens[scope]}", f"bearer  {api.tokens[scope]}", api.tokens[scope]):
        assert ask(api, method, path, authorization=spelled).status_code not in (401, 403)


def test_every_call_documents_the_scope_that_it_should_need() -> None:
    documented = {
        f"{method.upper()} {path}": tuple(each["token"][0] for each in call["security"])
        for path, calls in PATHS.items()
        for method, call in calls.items()
        if path not in PUBLIC
    }
    assert documented == SCOPES


@pytest.mark.parametrize(
    "path", ["/v1", "/bookings/v2", "/healthz/", "/healthz%0a", "//healthz", "/metrics/../v1/status", "/%2e%2e"]
)
def test_what_is_not_there_is_not_told_to_strangers(api: Api, path: str) -> None:
    said = api.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert said.startswith(b"HTTP/1.1 401"), said
    assert b"UNAUTHENTICATED" in said


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic {token}",
        "Bearer {token} more",
        "Bearer {token}x",
        "Bearer {short}",
        "Bearer {token}\r\nAuthorization: Bearer {token}",
        "Bearer " + "a" * 8000,
        "Bearer {upper}",
        "Bearer {digest}",
    ],
)
def test_malformed_authorization_headers_are_401s(api: Api, header: str) -> None:
    token = api.tokens["read"]
    digest = next(each.digest.hex() for each in read_tokens(api.tokens_file) if each.name == "read")
    filled = header.format(token=token, short=token[:-1], upper=token.upper(), digest=digest)
    said = api.raw(
        f"GET /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: {filled}\r\n\r\n".encode()
    )
    assert said.startswith(b"HTTP/1.1 401"), said
    assert token.encode() not in said


def test_random_tokens_are_refused_over_http(api: Api) -> None:
    async def guessing() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=api.url, timeout=30) as client:
            guesses = (client.get("/v1/status", headers={"authorization": f"Bearer {guess}"}) for guess in guesses_of(300, api))
            return await asyncio.gather(*guesses)

    answers = asyncio.run(guessing())
    assert {each.status_code for each in answers} == {401}
    assert len({each.content for each in answers}) == 1, "every guess is told the same"


def guesses_of(count: int, api: Api | None = None) -> list[str]:
    chance = random.Random(5)
    near = list(api.tokens.values()) if api is not None else []
    made = [f"att_{secrets.token_urlsafe(32)}" for _ in range(count)]
    for index, token in zip(range(0, count, 10), itertools.cycle(near), strict=False):
        at = chance.randrange(4, len(token))
        made[index] = token[:at] + chance.choice("abc") + token[at:]
    return made


def test_a_hundred_thousand_random_tokens(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    real = [create_token(path, list(Scope), f"t{n}", None, time.time()) for n in range(5)]
    file = TokenFile(path)
    assert all(file.holder(token.encode()) is not None for token in real)
    chance = random.Random(1)
    for number in range(100_000):
        guess = chance.randbytes(chance.randrange(64)) if number % 2 else f"att_{secrets.token_urlsafe(32)}".encode()
        assert file.holder(guess) is None
    for token in real:
        for index in range(len(token)):
            changed = token[:index] + chr(ord(token[index]) ^ 1) + token[index + 1 :]
            assert file.holder(changed.encode()) is None


def test_every_digest_is_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tokens.json"
    tokens = [create_token(path, [Scope.READ], f"t{n}", None, time.time()) for n in range(5)]
    file = TokenFile(path)
    compared: list[tuple[bytes, bytes]] = []
    constant_time = tokens_module.compare_digest  # type: ignore[attr-defined]
    assert constant_time.__module__ == "_operator" or constant_time.__module__ == "_hashlib"

    def counting(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return constant_time(one, other)

    monkeypatch.setattr(tokens_module, "compare_digest", counting)
    for presented in (*tokens, "nobody's"):
        compared.clear()
        file.holder(presented.encode())
        assert len(compared) == 5, "the first match does not end it"
        assert {len(one) for one, _ in compared} == {32}, "what is compared is digests, whatever was presented"


def test_a_token_expires(tmp_path: Path) -> None:
    path, clock = tmp_path / "tokens.json", [1_000_000.0]
    token = create_token(path, [Scope.READ], "short", timedelta(seconds=90), clock[0])
    file = TokenFile(path, lambda: clock[0])
    assert file.holder(token.encode()) is not None
    clock[0] += 89.9
    assert file.holder(token.encode()) is not None
    clock[0] += 0.2
    assert file.holder(token.encode()) is None


def test_an_expired_token_over_http(api: Api) -> None:
    token = create_token(api.tokens_file, list(Scope), "gone", timedelta(seconds=1), time.time() - 60)
    said = ask(api, "GET", "/v1/status", authorization=f"Bearer {token}")
    assert problem(said, 401) == "UNAUTHENTICATED"


def test_a_running_api_sees_new_and_revoked_tokens(api: Api) -> None:
    token = create_token(api.tokens_file, [Scope.READ], "visitor", None, time.time())

    def status() -> int:
        return ask(api, "GET", "/v1/status", authorization=f"Bearer {token}").status_code

    assert wait_until(lambda: status() == 200, 5)
    revoke_token(api.tokens_file, "visitor")
    assert wait_until(lambda: status() == 401, 5)


@pytest.mark.parametrize(
    "spoiled", ["", "{}", '{"tokens": [{}]}', '{"tokens": [{"name": "a", "digest": "00", "scopes": []}]}', "[" * 9000]
)
def test_a_file_that_is_spoiled_lets_nobody_in(tmp_path: Path, spoiled: str) -> None:
    path, clock = tmp_path / "tokens.json", [0.0]
    token = create_token(path, [Scope.READ], "a", None, time.time())
    file = TokenFile(path, lambda: clock[0])
    assert file.holder(token.encode()) is not None
    whole = path.read_text()
    path.write_text(spoiled)
    clock[0] += 2
    for _ in range(2):
        with pytest.raises(TokensError):
            file.holder(token.encode())
    with pytest.raises(TokensError):
        TokenFile(path)
    path.write_text(whole)
    clock[0] += 2
    assert file.holder(token.encode()) is not None
    path.unlink()
    clock[0] += 2
    with pytest.raises(TokensError):
        file.holder(token.encode())


ENTRY = {"name": "a", "digest": "ab" * 32, "scopes": ["read"], "createdAt": "2026-11-22T10:00:00Z"}


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({**ENTRY, "digest": "ab" * 31}, "digest"),
        ({**ENTRY, "digest": "att_" + "x" * 43}, "digest"),
        ({**ENTRY, "digest": 5}, "digest"),
        ({**ENTRY, "scopes": ["read", "all"]}, "scopes.1"),
        ({**ENTRY, "scopes": "read"}, "scopes"),
        ({**ENTRY, "createdAt": "yesterday"}, "createdAt"),
        ({**ENTRY, "createdAt": 1_795_000_000}, "createdAt"),
        ({**ENTRY, "expiresAt": "2026-11-22T10:00:00"}, "expiresAt"),
        ({**ENTRY, "expiresAt": ""}, "expiresAt"),
        ({**ENTRY, "source": ""}, "source"),
        ({**ENTRY, "source": "/a\nb"}, "source"),
        ({**ENTRY, "source": "/a\n"}, "source"),
        ({**ENTRY, "source": 5}, "source"),
        *(({name: value for name, value in ENTRY.items() if name != without}, without) for without in ENTRY),
    ],
)
def test_an_entry_that_is_refused_is_named_in_a_line(tmp_path: Path, entry: dict[str, object], field: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"tokens": [ENTRY, entry]}))
    with pytest.raises(TokensError) as refused:
        read_tokens(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: is not a valid token file (tokens.1.{field}: ")
    assert "\n" not in message
    assert "att_" not in message, "a token in place of its digest stays out of logs"


def test_an_entry_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    entry = {**ENTRY, "name": 7, "digest": "AB" * 32 + "\n", "expiresAt": None, "source": None}
    path.write_text(json.dumps({"tokens": [entry]}), "utf-8-sig")
    (token,) = read_tokens(path)
    assert (token.name, token.digest, token.expires, token.source) == ("7", b"\xab" * 32, None, None)


def test_fields_of_others_stay_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"comment": "from the vault", "tokens": [{**ENTRY, "owner": {"team": None}}]}))
    create_token(path, [Scope.MANAGE], "b", None, time.time())
    revoke_token(path, "b")
    document = json.loads(path.read_text())
    assert document["comment"] == "from the vault"
    assert document["tokens"] == [{**ENTRY, "createdAt": "2026-11-22T10:00:00.000Z", "owner": {"team": None}}]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("expires", "expiresAt"),
        ("expires_at", "expiresAt"),
        ("ExpiresAt", "expiresAt"),
        ("expriesAt", "expiresAt"),
        ("expiry\n", "expiresAt"),
        ("sources", "source"),
        ("soruce", "source"),
        ("sourcePrefix", "source"),
    ],
)
def test_a_misspelled_restriction_is_refused(tmp_path: Path, name: str, meant: str) -> None:
    """A token that should expire would be good for ever."""
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"tokens": [ENTRY, {**ENTRY, name: "2026-11-22T10:00:00Z"}]}))
    for use in (read_tokens, TokenFile):
        with pytest.raises(TokensError) as refused:
            use(path)
        assert f"tokens.1.{name!r}: write {meant}, or" in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["owner", "resource", "score", "scope", "comment", "export", "issuer", ""])
def test_fields_that_resemble_nothing_are_kept(tmp_path: Path, name: str) -> None:
    path = tmp_path / "tokens.json"
    path.write_text(json.dumps({"tokens": [{**ENTRY, name: 1}]}))
    create_token(path, [Scope.READ], "b", None, time.time())
    assert json.loads(path.read_text())["tokens"][0][name] == 1


def test_a_spoiled_file_is_a_503_over_http(api: Api) -> None:
    whole = api.tokens_file.read_bytes()
    api.tokens_file.write_bytes(b"{")
    try:
        assert wait_until(lambda: api.client.get("/v1/status").status_code == 503, 5)
        assert problem(api.client.get("/v1/status"), 503) == "TOKENS_UNREADABLE"
        assert api.client.get("/healthz").status_code == 200
    finally:
        api.tokens_file.write_bytes(whole)
    assert wait_until(lambda: api.client.get("/v1/status").status_code == 200, 5)


def test_the_file_holds_no_token_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    token = create_token(path, [Scope.READ, Scope.MANAGE], "desk", timedelta(days=90), time.time())
    assert token.removeprefix("att_") not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (entry,) = json.loads(path.read_text())["tokens"]
    assert (entry["name"], entry["scopes"]) == ("desk", ["manage", "read"])
    assert set(entry) == {"name", "scopes", "createdAt", "expiresAt", "digest"}
    assert [each.name for each in tmp_path.iterdir()] == ["tokens.json"]
    with pytest.raises(TokensError, match="desk"):
        create_token(path, [Scope.READ], "desk", None, time.time())


@pytest.mark.parametrize(
    ("values", "token"),
    [
        ([b"Bearer abc"], b"abc"),
        ([b"abc"], b"abc"),
        ([b"BEARER\tabc "], b"abc"),
        ([], None),
        ([b""], None),
        ([b"a", b"a"], None),
    ],
)
def test_exactly_one_bearer_token_counts_as_presented(values: list[bytes], token: bytes | None) -> None:
    assert presented_token(values) == token


def test_tokens_are_created_listed_and_revoked_by_commands(api: Api, tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    run = api.system.run_cli
    made = run("tokens", "create", "--scope", "read", "--name", "desk", "--expires", "90d", ATTENDANCE_API_TOKENS=str(path))
    token = made.stdout.strip()
    assert (made.returncode, made.stderr) == (0, "")
    found = TokenFile(path).holder(token.encode())
    assert found is not None
    assert found.scopes == {"read"}
    assert found.expires is not None
    assert (found.expires - found.created) == 90 * 86400 * 1_000_000
    (listed,) = run("tokens", "list", "--json", ATTENDANCE_API_TOKENS=str(path)).stdout.splitlines()
    assert json.loads(listed)["name"] == "desk"
    assert token not in listed
    assert run("tokens", "revoke", "desk", ATTENDANCE_API_TOKENS=str(path)).returncode == 0
    assert TokenFile(path).holder(token.encode()) is None
    again = run("tokens", "revoke", "desk", ATTENDANCE_API_TOKENS=str(path))
    assert (again.returncode, again.stderr.count("\n"), "desk" in again.stderr) == (1, 1, True)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["--scope", "read", "--expires", "soon"], "--expires"), (["--scope", "all"], "--scope"), ([], "--scope")],
)
def test_commands_that_are_not_meant(tmp_path: Path, arguments: list[str], word: str) -> None:
    path = tmp_path / "tokens.json"
    said = CliRunner().invoke(app, ["tokens", "create", *arguments], env={"ATTENDANCE_API_TOKENS": str(path)})
    assert (said.exit_code, word in said.output, path.exists()) == (2, True, False)


def test_token_commands_without_a_file_name_the_setting() -> None:
    said = CliRunner().invoke(app, ["tokens", "list"], env={"ATTENDANCE_API_TOKENS": None})
    assert isinstance(said.exception, SettingsError)
    assert "ATTENDANCE_API_TOKENS" in str(said.exception)


def test_a_broken_file_is_read_once_a_second_whoever_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each request of a stranger would cost a read of the whole file and a log line."""
    path, now, reads = tmp_path / "tokens.json", [1000.0], [0]
    create_token(path, [Scope.READ], "one", None, now[0])
    file = TokenFile(path, lambda: now[0])
    path.write_text("{")
    read = tokens_module.read_tokens

    def counting(given: Path) -> object:
        reads[0] += 1
        return read(given)

    monkeypatch.setattr(tokens_module, "read_tokens", counting)
    for second in (2, 4):
        now[0] = 1000.0 + second
        for _ in range(100):
            with pytest.raises(TokensError):
                file.holder(b"x")
        assert reads[0] == second // 2
