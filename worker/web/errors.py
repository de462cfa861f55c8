"""Error responses, all of one format.

::

    ApiError               status, message, details, headers
    ├── Refused            an application error with a stable code
    │   └── Unavailable    503 with Retry-After: the same request may succeed soon
    └── Invalid            400, field by field
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from aiokafka.errors import KafkaError
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from schemas.query.violations import QueryError, Rule, Violation
from worker.read_model.reader import OtherLayout, ReaderError

#: An operator has to act first: a retry each second is of no use.
_LATER = {"retry-after": "30"}


class ApiError(Exception):
    """An error response."""

    def __init__(self, status: int, message: str, details: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.details = details
        self.headers = dict(headers or {})

    @property
    def application_error(self) -> dict[str, Any]:
        """Code, description and data, as the result of one item of a bulk request shows them."""
        raise NotImplementedError

    def response(self) -> Response:
        return answer({"message": str(self), "details": self.details}, self.status, self.headers)


class Refused(ApiError):
    """An application error with a stable code; ``description`` says what to do."""

    def __init__(
        self,
        status: int,
        code: str,
        description: str,
        data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        error = {"code": code, "description": description, "data": dict(data or {})}
        super().__init__(status, description, {"applicationError": error}, headers)

    @property
    def application_error(self) -> dict[str, Any]:
        return dict(self.details["applicationError"])


class Unavailable(Refused):
    """A 503; the same request may succeed in a second."""

    def __init__(self, code: str, description: str, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(503, code, description, data, {"retry-after": "1"})


class Invalid(ApiError):
    """A 400 that names each field, what is wrong with it and the rule."""

    def __init__(self, violations: Iterable[Violation]) -> None:
        fields = [{"field": v.field, "description": v.description, "violatedRule": v.rule} for v in violations]
        message = "; ".join(f"{each['field']}: {each['description']}" for each in fields[:3])
        super().__init__(400, message, {"validationError": {"fieldViolations": fields}})

    @property
    def application_error(self) -> dict[str, Any]:
        """That of the first field."""
        first = self.details["validationError"]["fieldViolations"][0]
        return {"code": first["violatedRule"], "description": f"{first['field']}: {first['description']}", "data": {}}


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(document), status, headers, "application/json")


#: The exceptions that `problem_of` knows; a TimeoutError is an OSError.
EXPECTED = (ApiError, QueryError, ReaderError, RedisError, KafkaError, OSError)


def problem_of(error: Exception) -> ApiError | None:
    """The response to an expected exception; None for any other."""
    match error:
        case ApiError():
            return error
        case QueryError():
            return Invalid(error.violations)
        case OtherLayout():
            return Refused(503, "OTHER_LAYOUT", "another version wrote the read models: upgrade the API", headers=_LATER)
        case ReaderError():
            return Unavailable("NOT_SERVING", str(error))
        case RedisError() | TimeoutError():
            return Unavailable("READ_MODELS_AWAY", "Redis does not answer: retry")
        case KafkaError() | OSError():
            return Unavailable("BROKER_AWAY", "Kafka does not answer, nothing was published: retry")
        case _:
            return None


def add_error_handlers(app: FastAPI) -> None:
    """Lets the app answer expected exceptions in the format of this API."""
    for kind in EXPECTED:
        app.add_exception_handler(kind, _answer_expected)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_unrouted)


# coroutines: Starlette calls other handlers in a thread
async def _answer_expected(_: Request, error: Exception) -> Response:
    problem = problem_of(error)
    assert problem is not None, "an exception of EXPECTED has a response"
    return problem.response()


async def _answer_invalid(_: Request, error: Exception) -> Response:
    """Parameters that FastAPI refuses."""
    assert isinstance(error, RequestValidationError)
    return Invalid(
        Violation(
            ".".join(map(str, each["loc"][1:])),
            str(each["msg"]),
            Rule.REQUIRED if each["type"] == "missing" else Rule.MALFORMED,
        )
        for each in error.errors()
    ).response()


async def _answer_unrouted(request: Request, error: Exception) -> Response:
    """Paths and methods that do not exist."""
    assert isinstance(error, HTTPException)
    if error.status_code != 405:
        return Refused(error.status_code, "NOT_FOUND", "no such path").response()
    scope = request.scope
    matching = [route for route in scope["router"].routes if route.matches(scope)[0] is not Match.NONE]
    # a literal path takes precedence over a path with parameters
    routes = [route for route in matching if not route.param_convertors] or matching
    allowed = {method for route in routes for method in route.methods}
    # every route of GET also answers HEAD
    methods = ", ".join(sorted(allowed | {"HEAD"} if "GET" in allowed else allowed))
    return Refused(405, "METHOD_NOT_ALLOWED", f"the methods of this path are {methods}", headers={"allow": methods}).response()
