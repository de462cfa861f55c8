"""The OpenAPI document: that of FastAPI, with the request bodies that routes parse themselves, and the bearer token."""

from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from schemas.attendance import STATUSES
from schemas.query.filter import MAX_VALUES_OF_OPERATOR
from schemas.query.request import MAX_FIELDS, MAX_LIMIT, MAX_SORTS
from worker.web.auth import Scope
from worker.web.errors import answer
from worker.web.models import BulkDeleteRequest, BulkSetRequest, IncomingBatch, IncomingEvent, SetRequest
from worker.web.routing import add
from worker.web.security import SCHEME

_PREFIX = "#/components/schemas/"
_BODIES: dict[str, Any] = {
    "SetRequest": SetRequest,
    "BulkSetRequest": BulkSetRequest,
    "BulkDeleteRequest": BulkDeleteRequest,
    "IncomingEvent": IncomingEvent,
    "IncomingBatch": IncomingBatch,
}
_DESCRIPTION = """\
Who came to which session, and how many; filled by events within a fraction of a second.
Errors have one shape: `message`, and `details` with an `applicationError` (a stable `code`) or a `validationError`.
`participantNotification` is passed on with the event for whoever sends messages."""


def add_openapi(router: APIRouter) -> None:
    """Lets the app answer with its OpenAPI document at ``/openapi.json``."""
    add(router, "GET", "/openapi.json", get_openapi_document, Scope.READ, dict[str, Any])


async def get_openapi_document(request: Request) -> Response:
    """This document."""
    app: FastAPI = request.app
    if app.openapi_schema is None:
        app.openapi_schema = document(app)
    return answer(app.openapi_schema)


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document of the app."""
    openapi = get_openapi(title=app.title, version=app.version, description=_DESCRIPTION, routes=app.routes)
    components = openapi.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    # schemas of the 422 that FastAPI documents for parameters; this API answers 400
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for name, shape in _BODIES.items():
        schema = TypeAdapter(shape).json_schema(ref_template=_PREFIX + "{model}")
        for inner, definition in schema.pop("$defs", {}).items():
            schemas.setdefault(inner, definition)
        schemas[name] = schema
    schemas |= _query_schemas()
    for path in openapi["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
            if "security" in operation:
                # FastAPI documents that a token needs all scopes of a route; here one of them is enough
                (required,) = operation["security"]
                operation["security"] = [{SCHEME: [scope]} for scope in required[SCHEME]]
    return openapi


def _query_schemas() -> dict[str, Any]:
    names = ("id", "bookingId", "sessionId", "eventId")
    fields = {name: _conditions({"type": "string"}) for name in names}
    fields["status"] = _conditions({"enum": [str(each) for each in STATUSES]})
    fields["numberOfAttendees"] = _conditions({"type": "integer"}, "$lt", "$lte", "$gt", "$gte")
    reference = {"$ref": f"{_PREFIX}Filter"}
    nothing = {"type": "null"}
    sort = {
        "type": "object",
        "properties": {"fieldName": {"enum": list(fields)}, "order": {"enum": ["ASC", "DESC", None]}},
        "required": ["fieldName"],
        "additionalProperties": False,
    }
    paging = {
        "type": "object",
        "properties": {
            "limit": {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_LIMIT},
            "cursor": {"type": ["string", "null"]},
        },
        "additionalProperties": False,
    }
    shown = {"enum": [*fields, "updatedDate", "source"]}
    query = {
        "type": "object",
        "properties": {
            "filter": {"anyOf": [reference, nothing]},
            "sort": {"anyOf": [{"type": "array", "items": sort, "maxItems": MAX_SORTS}, nothing]},
            "cursorPaging": {"anyOf": [paging, nothing]},
            "fields": {"anyOf": [{"type": "array", "items": shown, "maxItems": MAX_FIELDS}, nothing]},
        },
        "additionalProperties": False,
    }
    both = {"$and": {"type": "array", "items": reference}}
    return {
        "Filter": {"type": "object", "properties": fields | both, "additionalProperties": False},
        "QueryRequest": _request("query", query),
        "CountRequest": _request("filter", reference),
    }


def _conditions(value: dict[str, Any], *operators: str) -> dict[str, Any]:
    """A value, which means ``$eq``, or an object of operators."""
    many = {"type": "array", "items": value, "maxItems": MAX_VALUES_OF_OPERATOR}
    properties = {"$eq": value, "$ne": value, "$in": many, "$nin": many, "$hasSome": many} | dict.fromkeys(operators, value)
    return {"anyOf": [value, {"type": "object", "properties": properties, "additionalProperties": False}]}


def _request(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    inner = {"anyOf": [schema, {"type": "null"}]}
    return {"type": "object", "properties": {name: inner}, "additionalProperties": False}
