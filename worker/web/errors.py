"""Error responses, all of one format.

::

    ApiError                 status, message, details, headers
    ├── refused()            an application error with a stable code
    ├── invalid()            400, field by field
    └── unavailable()        503 with Retry-After: the same request may succeed soon
"""

from collections.abc import Iterable, Mapping
from typing import Any

import orjson
from aiokafka.errors import KafkaError
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Scope

from schemas.query.violations import QueryError, Rule, Violation
from worker.read_model.reader import OtherLayout, ReaderError

_SOON = {"retry-after": "1"}
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
        """Code, description and data; those of the first field if it is a validation error."""
        if "applicationError" in self.details:
            return dict(self.details["applicationError"])
        first = self.details["validationError"]["fieldViolations"][0]
        return {"code": first["violatedRule"], "description": f"{first['field']}: {first['description']}", "data": {}}

    def response(self) -> Response:
        return answer({"message": str(self), "details": self.details}, self.status, self.headers)


def answer(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(document), status, headers, "application/json")


def refused(
    status: int, code: str, description: str, data: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
) -> ApiError:
    """An application error; ``description`` says what to do."""
    details = {"applicationError": {"code": code, "description": description, "data": dict(data or {})}}
    return ApiError(status, description, details, headers)


def invalid(violations: Iterable[Violation]) -> ApiError:
    """A 400 that names each field, what is wrong with it and the rule."""
    fields = [{"field": v.field, "description": v.description, "violatedRule": v.rule} for v in violations]
    message = "; ".join(f"{each['field']}: {each['description']}" for each in fields[:3])
    return ApiError(400, message, {"validationError": {"fieldViolations": fields}})


def unavailable(code: str, description: str, data: Mapping[str, Any] | None = None) -> ApiError:
    """A 503; the same request may succeed in a second."""
    return refused(503, code, description, data, headers=_SOON)


def problem_of(error: Exception) -> ApiError | None:
    """The response to an expected exception; None for any other."""
    match error:
        case ApiError():
            return error
        case QueryError():
            return invalid(error.violations)
        case OtherLayout():
            return refused(503, "OTHER_LAYOUT", "Redis was written by another version than this API runs", headers=_LATER)
        case ReaderError():
            return unavailable("NOT_SERVING", str(error))
        case RedisError() | TimeoutError():
            return unavailable("READ_MODELS_AWAY", "Redis does not answer: ask again")
        case KafkaError() | OSError():
            return unavailable("BROKER_AWAY", "Kafka does not answer, nothing was published: ask again")
        case _:
            return None


def framework_problem(error: HTTPException | RequestValidationError, scope: Scope) -> ApiError:
    """The response to an error of routing or FastAPI: unknown paths, methods, parameters."""
    if isinstance(error, RequestValidationError):
        return invalid(
            Violation(str(each["loc"][-1]), str(each["msg"]), Rule.REQUIRED if each["type"] == "missing" else Rule.MALFORMED)
            for each in error.errors()
        )
    if error.status_code != 405:
        return refused(error.status_code, "NOT_FOUND", "the API has no such path")
    matching = [route for route in scope["router"].routes if route.matches(scope)[0] is not Match.NONE]
    # a literal path takes precedence over a path with parameters
    routes = [route for route in matching if not route.param_convertors] or matching
    allowed = {method for route in routes for method in route.methods}
    # every route of GET also answers HEAD
    methods = ", ".join(sorted(allowed | {"HEAD"} if "GET" in allowed else allowed))
    return refused(405, "METHOD_NOT_ALLOWED", f"this path has {methods}", headers={"allow": methods})
