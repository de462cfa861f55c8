"""What the official CloudEvents SDKs write to Kafka, both modes, data as an object and as bytes, is read as one event.

The SDKs of JavaScript, Go and Java run in small programs beside this file, see `tests/sdks/programs.py`.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1.http import CloudEvent as OldCloudEvent
from cloudevents.v1.kafka import to_binary, to_structured

from schemas.events import DeadLetter, Event
from tests.sdks.programs import SDKS, Sdk
from tests.support.incoming import RECEIVED, take
from tests.support.programs import Program
from tests.support.services.processes import run_tool

DATA = {"bookingId": "b1", "sessionId": "s1", "numberOfAttendees": 2}
ATTRIBUTES: dict[str, Any] = {"id": "e1", "source": "/devices/kiosk-7", "type": "attendance.check_in"}
EXPECTED = Event("attendance.check_in", "b1", "s1", RECEIVED, "/devices/kiosk-7", "e1", "", 2, "", RECEIVED)
MOMENT = datetime(2026, 11, 22, 10, tzinfo=UTC)


def decoded(headers: Any, value: bytes) -> Event | DeadLetter:
    return take(value, list(headers))


@pytest.mark.parametrize("sdk", SDKS, ids=[sdk.language for sdk in SDKS])
def test_messages_of_the_sdk_are_read(sdk: Sdk, installed: Callable[[Program], Path]) -> None:
    printed = run_tool(["env", "-C", str(installed(sdk.program)), *sdk.command], timeout=120)
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    found = {
        line["case"]: decoded([(name, b64decode(text)) for name, text in line["headers"]], b64decode(line["value"]))
        for line in lines
    }
    assert {f"{mode} {kind}" for mode in ("binary", "structured") for kind in ("object", "bytes")} <= found.keys()
    assert found == dict.fromkeys(found, EXPECTED)


def messages() -> Iterator[tuple[str, Any]]:
    """What both generations of the Python SDK make of the event."""
    in_bytes = json.dumps(DATA).encode()
    for kind, data in (("object", DATA), ("bytes", in_bytes)):
        attributes = {**ATTRIBUTES, "specversion": "1.0", "time": MOMENT, "datacontenttype": "application/json"}
        event = CloudEvent(attributes, data)  # type: ignore[arg-type]
        yield f"binary {kind}", kafka.to_binary(event, JSONFormat())
        yield f"structured {kind}", kafka.to_structured(event, JSONFormat())
        old = OldCloudEvent({**ATTRIBUTES, "time": MOMENT.isoformat(), "datacontenttype": "application/json"}, data)
        as_it_is = (lambda given: given) if kind == "bytes" else None
        yield f"old binary {kind}", to_binary(old, data_marshaller=as_it_is)
        yield f"old structured {kind}", to_structured(old, data_marshaller=as_it_is)


MESSAGES = dict(messages())


@pytest.mark.parametrize("case", MESSAGES)
def test_messages_of_the_python_sdk_are_read(case: str) -> None:
    message = MESSAGES[case]
    headers = [(name, text if isinstance(text, bytes) else text.encode()) for name, text in message.headers.items()]
    value = message.value if isinstance(message.value, bytes) else message.value.encode()
    assert decoded(headers, value) == EXPECTED
