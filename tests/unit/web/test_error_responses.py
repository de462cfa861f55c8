"""Which exception of a route is answered how; without a server and without Redis."""

import asyncio
from functools import cache
from typing import Any

import httpx
import pytest
from aiokafka.errors import KafkaTimeoutError
from fastapi import FastAPI
from redis.exceptions import ConnectionError as RedisAway
from starlette.requests import ClientDisconnect

from schemas.query.violations import QueryError, Rule, Violation
from tests.support.serving import identity
from worker.read_model.reader import NotServing, OtherLayout
from worker.settings import Settings
from worker.web.app import create_app
from worker.web.errors import Refused

PATH = f"/bookings/v2/attendance/{identity('b', 's')}"


class FailingReader:
    """Raises in every lookup."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def get(self, _: str) -> None:
        raise self._error

    async def no_shows_page(self, *_: Any) -> None:
        raise self._error


@cache
def only_app() -> FastAPI:
    return create_app(Settings(_env_file=None))  # type: ignore[call-arg]


def failing(error: BaseException) -> FastAPI:
    """The app with a reader that raises the error."""
    app = only_app()
    app.state.services = app.state.services._replace(reader=FailingReader(error))
    return app


def ask(app: FastAPI, path: str, method: str = "GET") -> httpx.Response:
    async def asking() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.request(method, path)

    return asyncio.run(asking())


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (Refused(409, "CHANGED_MEANWHILE", "again"), 409, "CHANGED_MEANWHILE"),
        (NotServing("no namespace is live"), 503, "NOT_SERVING"),
        (OtherLayout("999"), 503, "OTHER_LAYOUT"),
        (RedisAway("gone"), 503, "READ_MODELS_AWAY"),
        (TimeoutError(), 503, "READ_MODELS_AWAY"),
        (KafkaTimeoutError(), 503, "BROKER_AWAY"),
        (ConnectionRefusedError(), 503, "BROKER_AWAY"),
        (KeyError("a bug"), 500, "INTERNAL"),
        (asyncio.CancelledError(), 503, "STOPPING"),
    ],
)
# a route that calls its endpoint itself, and one that FastAPI handles
@pytest.mark.parametrize("path", [PATH, "/v1/bookings?sort=noShowRate"])
def test_an_exception_is_answered_by_its_kind(path: str, error: BaseException, status: int, code: str) -> None:
    answered = ask(failing(error), path)
    document = answered.json()
    assert (answered.status_code, document["details"]["applicationError"]["code"]) == (status, code)
    assert ("retry-after" in answered.headers) is (status == 503)
    assert "a bug" not in answered.text


def test_an_invalid_query_names_its_fields() -> None:
    violation = Violation("query.limit", "takes an integer", Rule.WRONG_TYPE)
    answered = ask(failing(QueryError([violation])), PATH)
    fields = answered.json()["details"]["validationError"]["fieldViolations"]
    assert (answered.status_code, [each["field"] for each in fields]) == (400, ["query.limit"])


def test_a_client_that_has_gone_is_not_answered() -> None:
    app = failing(ClientDisconnect())
    sent: list[Any] = []

    async def asking() -> None:
        request: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": PATH,
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
        }
        request |= {"client": ("127.0.0.1", 1), "root_path": "", "http_version": "1.1"}

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(request, receive, send)

    asyncio.run(asking())
    assert sent == []


def test_parameters_are_checked_before_the_read_models_are_asked() -> None:
    answered = ask(failing(KeyError("a bug")), "/v1/bookings?sort=noShowRate&limit=1001")
    fields = answered.json()["details"]["validationError"]["fieldViolations"]
    assert (answered.status_code, [each["field"] for each in fields]) == (400, ["limit"])
