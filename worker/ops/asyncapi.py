"""The AsyncAPI 3 document of the topics and of ``POST /v1/events``, made of the schemas and of the topics' plans.

AsyncAPI's schemas are JSON Schema draft 7, of which pydantic's are a part, save for the discriminator: a union is written
as ``oneOf``, and each of its types has a message of its own.
"""

from collections.abc import Sequence
from importlib import metadata
from typing import Any, NamedTuple, get_args

from pydantic import TypeAdapter

from schemas.alerts import AlertEvent
from schemas.events import (
    BACKFILL_HEADER,
    BATCH,
    MAX_BOOKING_BYTES,
    MAX_EVENT_BYTES,
    MAX_EVENTS,
    RECEIVED_HEADER,
    STRUCTURED,
    AttendanceEvent,
    BookingData,
    BookingEvent,
    EventType,
)
from worker.ops.topics import TopicPlan, plans
from worker.settings import Settings
from worker.topics import TopicNames

_Json = dict[str, Any]

#: Versions of the bindings' specifications.
_KAFKA = "0.5.0"
_HTTP = "0.3.0"
_JSON = "application/json"
_TIME = "2026-11-22T10:00:00.123Z"
_TEXT = {"type": "string"}
_INSTANT = {"type": "string", "format": "date-time"}
_SUMMARIES = {
    EventType.CHECK_IN: "The customer came, with this many people",
    EventType.NO_SHOW: "Nobody came",
    EventType.SET: "Somebody of the staff sets status and number",
    EventType.PARTICIPANT_SCANNED: "The ticket or badge of one participant was scanned",
    EventType.CLEARED: "Undoes what was reported",
    EventType.DELETED: "Removes the attendance until a later event",
    EventType.BOOKING_ERASED: "Removes all that was reported for a booking up to now, for privacy",
    EventType.BOOKING_UPSERTED: "The whole booking, after it was made, changed or canceled",
    EventType.BOOKING_DELETED: "The booking is unknown again",
}
_ONE = {"bookingId": "BK-1", "sessionId": "yoga-1"}
_EXAMPLES: dict[EventType, _Json] = {
    EventType.CHECK_IN: {**_ONE, "numberOfAttendees": 2},
    EventType.NO_SHOW: _ONE,
    EventType.SET: {**_ONE, "status": "ATTENDED", "numberOfAttendees": 2},
    EventType.PARTICIPANT_SCANNED: {**_ONE, "participantId": "ticket-7"},
    EventType.CLEARED: _ONE,
    EventType.DELETED: _ONE,
    EventType.BOOKING_ERASED: {"bookingId": "BK-1"},
    EventType.BOOKING_UPSERTED: {"bookingId": "BK-1", "numberOfParticipants": 2, "sessions": [{"sessionId": "yoga-1"}]},
    EventType.BOOKING_DELETED: {"bookingId": "BK-1"},
}


class _Channel(NamedTuple):
    name: str
    plan: TopicPlan
    description: str
    messages: dict[str, _Json]


def document(dead_letter: _Json) -> _Json:
    """The document with the default settings; ``dead_letter`` is the schema of a dead letter's headers."""
    settings = Settings.model_construct()
    names = TopicNames.of(settings.topic_prefix)
    planned = {plan.name: plan for plan in plans(settings)}
    schemas: _Json = {}
    events, bookings = _events(schemas, AttendanceEvent), _events(schemas, BookingEvent)
    null = _message("BookingNull", "A null value: the booking is unknown again", {"payload": {"type": "null"}, **_keyed()})
    received = "Events from devices, staff tools and booking systems."
    channels = [
        _Channel("events", planned[names.events], f"{received} A value has at most {MAX_EVENT_BYTES} bytes.", events),
        _Channel(
            "bookings",
            planned[names.bookings],
            f"The newest record of each booking. A value has at most {MAX_BOOKING_BYTES} bytes.",
            {**bookings, "BookingNull": null},
        ),
        _Channel("alerts", planned[names.alerts], "The state of each mismatch alert, by alertId.", {"Alert": _alert(schemas)}),
        _Channel(
            "deadLetters",
            planned[names.dead_letters],
            "Records that could not be used, unchanged, with the reason in headers.",
            {"DeadLetter": _dead_letter(dead_letter)},
        ),
    ]
    over_http = _http_messages(schemas)
    messages = {name: message for each in channels for name, message in each.messages.items()} | over_http
    return {
        "asyncapi": "3.0.0",
        "id": "urn:attendance-worker",
        "info": _info(settings),
        "defaultContentType": _JSON,
        "servers": _servers(),
        "channels": {
            **{each.name: _kafka_channel(each) for each in channels},
            "httpEvents": {
                "address": "/v1/events",
                "title": "Events over HTTP",
                "description": "For devices that do not speak Kafka. The API publishes what it takes, and answers 202 once "
                "Kafka has acknowledged it. 429 and 503 have Retry-After: send the same again.",
                "servers": [{"$ref": "#/servers/http"}],
                "messages": _references(over_http),
            },
        },
        "operations": _operations(channels, list(over_http), settings),
        "components": {
            "messages": messages,
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "of `attendance tokens create`"},
            },
        },
    }


def _info(settings: Settings) -> _Json:
    return {
        "title": "Attendance events",
        "version": metadata.version("attendance-worker"),
        "description": "What devices and booking systems publish, and what the workers publish of it. Topics are named with "
        f"the default prefix `{settings.topic_prefix}` (`ATTENDANCE_TOPIC_PREFIX`): with another one "
        f"`{settings.topic_prefix}.events` is `PREFIX.events`. CloudEvents 1.0 in structured mode, or in binary mode "
        "(messages named …Binary).",
        "tags": [{"name": name, "description": text} for name, text in _ROLES.items()],
    }


def _servers() -> _Json:
    return {
        "kafka": {
            "host": "{bootstrap}",
            "protocol": "kafka",
            "description": "Any broker of the cluster; TLS and SASL as its operator says.",
            "variables": {"bootstrap": {"default": "localhost:9092", "description": "host:port of a broker"}},
            "bindings": {"kafka": {"bindingVersion": _KAFKA}},
        },
        "http": {
            "host": "{api}",
            "protocol": "http",
            "description": "`attendance api`; https where a proxy before it ends TLS.",
            "variables": {"api": {"default": "localhost:8080", "description": "host:port of the API"}},
            "security": [{"$ref": "#/components/securitySchemes/token"}],
        },
    }


def _kafka_channel(channel: _Channel) -> _Json:
    plan = channel.plan
    configuration: _Json = {
        name: [value] if name == "cleanup.policy" else int(value) if value.isdigit() else value
        for name, value in plan.settings.items()
    }
    return {
        "address": plan.name,
        "title": plan.name,
        "description": channel.description,
        "servers": [{"$ref": "#/servers/kafka"}],
        "messages": _references(channel.messages),
        "bindings": {
            "kafka": {
                "topic": plan.name,
                "partitions": plan.partitions,
                "topicConfiguration": configuration,
                "bindingVersion": _KAFKA,
            }
        },
    }


def _references(names: dict[str, _Json]) -> _Json:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}


# --- messages ------------------------------------------------------------------------------------


def _events(schemas: _Json, union: Any) -> dict[str, _Json]:
    """The messages of the types of a union, each in both modes; their schemas are added."""
    messages = {}
    for model in _types(union):
        name, schema = model.__name__, _add(schemas, model)
        kind, attributes, data = (
            EventType(schema["properties"]["type"]["const"]),
            schema["properties"],
            dict(schema["properties"]),
        )
        example = {"specversion": "1.0", "id": "42", "source": "/gates/north/scanner-3", "type": kind.value, "time": _TIME}
        messages[name] = _message(
            name,
            _SUMMARIES[kind],
            {
                "contentType": STRUCTURED,
                "headers": _headers({}),
                "payload": {"$ref": f"#/components/schemas/{name}"},
                "examples": [{"name": kind.value, "payload": {**example, "data": _EXAMPLES[kind]}}],
                **_keyed(),
            },
        )
        payload = data.pop("data")
        binary = {f"ce_{attribute}": attributes[attribute] for attribute in data}
        messages[f"{name}Binary"] = _message(
            f"{name}Binary",
            f"{_SUMMARIES[kind]} (binary mode)",
            {
                "contentType": _JSON,
                "headers": _headers(binary),
                "payload": payload,
                "examples": [
                    {
                        "name": kind.value,
                        "headers": {f"ce_{attribute}": value for attribute, value in example.items()},
                        "payload": _EXAMPLES[kind],
                    }
                ],
                **_keyed(),
            },
        )
    return messages


def _alert(schemas: _Json) -> _Json:
    _add(schemas, AlertEvent)
    key = {**_TEXT, "format": "uuid", "description": "alertId"}
    more = {"contentType": _JSON, "payload": {"$ref": "#/components/schemas/AlertEvent"}, **_keyed(key)}
    return _message("Alert", "A mismatch was opened or resolved", more)


def _dead_letter(headers: _Json) -> _Json:
    key = {**_TEXT, "description": "the key of the original record, cut at 8 KiB"}
    payload = {"description": "the original value, cut at 2 MiB; any bytes"}
    more = {"contentType": "application/octet-stream", "headers": headers, "payload": payload, **_keyed(key)}
    return _message("DeadLetter", "A record that could not be used", more)


def _http_messages(schemas: _Json) -> dict[str, _Json]:
    models = (*_types(AttendanceEvent), *_types(BookingEvent))
    schemas["Event"] = {"oneOf": [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]}
    event = {"$ref": "#/components/schemas/Event"}
    attributes = {
        name: shape for name, shape in schemas[models[0].__name__]["properties"].items() if name not in ("type", "data")
    }
    attributes["type"] = {"type": "string", "enum": [kind.value for kind in EventType]}
    data = {"anyOf": [schemas[model.__name__]["properties"]["data"] for model in models]}
    binary = {"type": "object", "properties": {f"ce-{name}": shape for name, shape in attributes.items()}}
    binary["required"] = list(binary["properties"])
    shapes: dict[str, tuple[str, _Json]] = {
        "HttpEvent": ("One event", {"contentType": STRUCTURED, "payload": event}),
        "HttpBatch": (
            f"Up to {MAX_EVENTS} events, all or none of which are published",
            {"contentType": BATCH, "payload": {"type": "array", "items": event, "maxItems": MAX_EVENTS}},
        ),
        "HttpBinary": ("One event in binary mode", {"contentType": _JSON, "headers": binary, "payload": data}),
    }
    return {
        name: _message(name, summary, {**more, "bindings": {"http": {"bindingVersion": _HTTP}}})
        for name, (summary, more) in shapes.items()
    }


def _message(name: str, summary: str, more: _Json) -> _Json:
    return {"name": name, "title": name, "summary": summary, **more}


def _headers(binary: _Json) -> _Json:
    """The headers of a record: those of binary mode, and those that any record may have."""
    free = {
        "content-type": {**_TEXT, "description": "need not be there"},
        RECEIVED_HEADER: {**_INSTANT, "description": "when the record first reached a system, if it is published again"},
        BACKFILL_HEADER: {**_TEXT, "description": "the operation that published the record again"},
    }
    required = {"required": list(binary)} if binary else {}
    return {"type": "object", "properties": {**binary, **free}, **required}


def _keyed(key: _Json | None = None) -> _Json:
    """The binding of a message with a key: a booking's, unless another is given."""
    if key is None:
        booking = TypeAdapter(BookingData).json_schema()["properties"]["bookingId"]
        key = {**booking, "description": "bookingId in UTF-8; the partition is murmur2 of it"}
    return {"bindings": {"kafka": {"key": key, "bindingVersion": _KAFKA}}}


def _types(union: Any) -> Sequence[Any]:
    """The types of an annotated union."""
    types: Sequence[Any] = get_args(get_args(union)[0])
    return types


def _add(schemas: _Json, model: Any) -> _Json:
    """Adds the schema of a type, and those that it refers to."""
    schema = TypeAdapter(model).json_schema(ref_template="#/components/schemas/{model}")
    schemas |= schema.pop("$defs", {})
    schemas[model.__name__] = schema
    return schema


# --- operations ----------------------------------------------------------------------------------

_ROLES = {
    "device": "kiosks, scanners, staff tools",
    "booking-system": "the system that bookings are made in",
    "worker": "`attendance worker`",
    "reader": "who reads alerts and dead letters",
}


def _operations(channels: Sequence[_Channel], over_http: list[str], settings: Settings) -> _Json:
    of = {each.name: list(each.messages) for each in channels}
    group = {"kafka": {"groupId": {"type": "string", "enum": [settings.topic_prefix]}, "bindingVersion": _KAFKA}}
    post = {"http": {"method": "POST", "bindingVersion": _HTTP}}
    kafka: _Json = {"kafka": {"bindingVersion": _KAFKA}}
    return {
        "publishEvents": _operation("send", "events", of["events"], "A device publishes an event", "device", kafka),
        "publishBookings": _operation(
            "send", "bookings", of["bookings"], "A booking system publishes a booking", "booking-system", kafka
        ),
        "postEvents": _operation("send", "httpEvents", over_http, "A device without Kafka posts events", "device", post),
        "foldEvents": _operation("receive", "events", of["events"], "Workers fold the events", "worker", group),
        "joinBookings": _operation("receive", "bookings", of["bookings"], "Workers join the bookings", "worker", group),
        "publishAlerts": _operation("send", "alerts", of["alerts"], "Workers publish alerts", "worker", kafka),
        "setAside": _operation("send", "deadLetters", of["deadLetters"], "Workers set a bad record aside", "worker", kafka),
        "watchAlerts": _operation("receive", "alerts", of["alerts"], "Dashboards and notifiers read alerts", "reader", kafka),
        "readDeadLetters": _operation("receive", "deadLetters", of["deadLetters"], "Device makers read why", "reader", kafka),
    }


def _operation(action: str, channel: str, names: Sequence[str], summary: str, role: str, bindings: _Json) -> _Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "tags": [{"name": role}],
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in names],
        "bindings": bindings,
    }
