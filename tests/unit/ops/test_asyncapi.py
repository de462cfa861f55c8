"""The AsyncAPI document has every topic as it is created and every event type, and its examples are accepted.

`tests/guide/test_asyncapi.py` has the official parser validate it.
"""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from schemas.alerts import AlertData
from schemas.decoding.explain import decode, decode_booking
from schemas.events import Booking, BookingGone, Event, EventType, Reason, Topic
from tests.support.incoming import raw
from worker.ops import export
from worker.ops.topics import plans
from worker.settings import Settings

jsonschema: Any = import_module("jsonschema")  # it brings no types
DOCUMENT = export.documents()["asyncapi.json"]
MESSAGES = DOCUMENT["components"]["messages"]
PLANS = {plan.name: plan for plan in plans(Settings(_env_file=None))}  # type: ignore[call-arg]
CHANNELS = {"events": Topic.EVENTS, "bookings": Topic.BOOKINGS, "alerts": None, "deadLetters": None}


@pytest.mark.parametrize("name", CHANNELS)
def test_a_channel_is_a_topic_as_it_is_created(name: str) -> None:
    channel = DOCUMENT["channels"][name]
    kafka = channel["bindings"]["kafka"]
    plan = PLANS[channel["address"]]
    assert (kafka["topic"], kafka["partitions"]) == (plan.name, plan.partitions)
    shown = {key: value[0] if isinstance(value, list) else str(value) for key, value in kafka["topicConfiguration"].items()}
    assert shown == plan.settings


def of_both_modes() -> Iterator[tuple[str, str]]:
    for name in CHANNELS:
        yield from ((name, message) for message in DOCUMENT["channels"][name]["messages"] if "examples" in MESSAGES[message])


def test_every_type_is_a_message_in_both_modes() -> None:
    kinds = [MESSAGES[message]["examples"][0]["name"] for _, message in of_both_modes()]
    assert sorted(kinds) == sorted([kind.value for kind in EventType] * 2)


@pytest.mark.parametrize(("channel", "name"), list(of_both_modes()))
def test_the_example_of_a_message_is_accepted(channel: str, name: str) -> None:
    message = MESSAGES[name]
    (example,) = message["examples"]
    headers = [(header, value.encode()) for header, value in example.get("headers", {}).items()]
    for schema, instance in ((message["payload"], example["payload"]), (message["headers"], example.get("headers", {}))):
        jsonschema.validate(instance, resolved(schema))
    value = raw(example["payload"])
    if CHANNELS[channel] is Topic.BOOKINGS:
        assert isinstance(decode_booking(value, headers), Booking | BookingGone)
    else:
        assert isinstance(decode(value, headers, 0, max_age=2**62), Event)


def test_a_key_is_a_booking_id() -> None:
    key = MESSAGES["CheckedIn"]["bindings"]["kafka"]["key"]
    jsonschema.validate("BK-1", key)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate("x" * 129, key)


def test_alerts_and_dead_letters_have_their_fields() -> None:
    assert set(DOCUMENT["components"]["schemas"]["AlertData"]["properties"]) == set(AlertData.__annotations__)
    reason = MESSAGES["DeadLetter"]["headers"]["properties"]["reason"]
    assert reason["enum"] == [each.value for each in Reason]


def test_every_reference_leads_somewhere() -> None:
    references = [node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node]
    assert len(references) > 100
    for reference in references:
        assert at(reference), reference


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """All objects of a document."""
    if isinstance(node, dict):
        yield node
    for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(each)


def at(reference: str) -> Any:
    place: Any = DOCUMENT
    for part in reference.removeprefix("#/").split("/"):
        place = place[part.replace("~1", "/")]
    return place


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema with the components that it refers to."""
    return {**schema, "components": DOCUMENT["components"]}
