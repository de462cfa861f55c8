"""What the official CloudEvents SDKs write to Kafka, both modes, data as an object and as bytes, is read as one event.

The SDKs of JavaScript, Go and Java run in small programs beside this file, each of which prints its messages as JSON lines.
They are installed once, into folders that git ignores, from lock files with hashes where the language has them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from base64 import b64decode
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1.http import CloudEvent as OldCloudEvent
from cloudevents.v1.kafka import to_binary, to_structured

from schemas.events import DeadLetter, Event
from tests.support.incoming import RECEIVED, take
from tests.support.services import ServiceUnavailable
from tests.support.services.cache import cache_root, locked
from tests.support.services.errors import ToolFailed
from tests.support.services.processes import run_tool

HERE = Path(__file__).parent
DATA = {"bookingId": "b1", "sessionId": "s1", "numberOfAttendees": 2}
ATTRIBUTES: dict[str, Any] = {"id": "e1", "source": "/devices/kiosk-7", "type": "attendance.check_in"}
EXPECTED = Event("attendance.check_in", "b1", "s1", RECEIVED, "/devices/kiosk-7", "e1", "", 2, "", RECEIVED)
MOMENT = datetime(2026, 11, 22, 10, tzinfo=UTC)
_SECONDS = 300.0


class Sdk(NamedTuple):
    """How a program is installed and run, in its own folder."""

    folder: str
    install: list[str]
    installed: str
    """The folder that it is installed into."""
    run: list[str]
    sources: list[str]
    """What makes another installation."""


SDKS = [
    Sdk(
        "javascript",
        ["npm", "ci", "--prefix", ".", "--no-audit", "--no-fund", "--silent"],
        "node_modules",
        ["node", "messages.js"],
        ["package-lock.json"],
    ),
    Sdk(
        "go",
        ["go", "build", "-mod=readonly", "-o", "target/messages", "."],
        "target",
        ["./target/messages"],
        ["go.mod", "go.sum", "main.go"],
    ),
    Sdk(
        "java",
        ["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=target/jars", "-DincludeScope=runtime"],
        "target",
        ["java", "-cp", "target/jars/*", "Messages.java"],
        ["pom.xml"],
    ),
]


def installed(sdk: Sdk) -> Path:
    """The folder of a program that can be run.

    Raises ServiceUnavailable where its language is missing or its libraries cannot be fetched.
    """
    folder = HERE / sdk.folder
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in sdk.sources)).hexdigest()
    stamp = folder / sdk.installed / ".installed"
    with locked(cache_root() / f"sdk-{sdk.folder}.lock"):
        if not stamp.is_file() or stamp.read_text() != digest:
            if shutil.which(sdk.install[0]) is None:
                raise ServiceUnavailable(f"the SDK of {sdk.folder} needs {sdk.install[0]}")
            try:
                _run(sdk.install, folder)
            except ToolFailed as failed:
                raise ServiceUnavailable(f"the SDK of {sdk.folder} cannot be installed: {failed}") from failed
            stamp.parent.mkdir(exist_ok=True)
            stamp.write_text(digest)
    return folder


def _run(command: list[str], folder: Path) -> str:
    return run_tool(["env", "-C", str(folder), *command], timeout=_SECONDS)


def decoded(headers: Any, value: bytes) -> Event | DeadLetter:
    return take(value, list(headers))


@pytest.mark.parametrize("sdk", SDKS, ids=[sdk.folder for sdk in SDKS])
def test_messages_of_the_sdk_are_read(sdk: Sdk) -> None:
    try:
        folder = installed(sdk)
    except ServiceUnavailable as missing:
        if os.environ.get("CI"):
            pytest.fail(f"CI must have this: {missing}", pytrace=False)
        print(f"\nSKIPPING {sdk.folder}: {missing}", file=sys.stderr)
        pytest.skip(str(missing))
    lines = [json.loads(line) for line in _run(sdk.run, folder).splitlines() if line.startswith("{")]
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
