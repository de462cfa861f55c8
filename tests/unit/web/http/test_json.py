"""JSON in request bodies: means one thing only, and costs what its size says."""

import json
from typing import Any

import pytest

from schemas.query.request import MAX, parse_filter
from worker.web.errors import ApiError
from worker.web.http.bodies import MAX_JSON_VALUES, parse_json, write_json


def refused(body: bytes) -> str:
    with pytest.raises(ApiError) as error:
        parse_json(body)
    assert error.value.status == 400
    return str(error.value.details["applicationError"]["description"])


@pytest.mark.timeout(30)
@pytest.mark.parametrize("again", ["0", "n", "49999"])
def test_a_name_twice_is_found_in_one_pass(again: str) -> None:
    """A look through all names for each of them takes minutes here."""
    names = [str(number) for number in range(50_000)]
    if again == "n":
        names[-2] = "n"
    body = "{" + ",".join(f'"{name}":1' for name in (*names, again)) + "}"
    assert f"'{again}' occurs twice" in refused(body.encode())
    assert f"'{again}' occurs twice" in refused(b"[" + body.encode() + b"]")


@pytest.mark.parametrize("number", [0, -(10**17), 10**17, -(10**18), 2**63, 2**64, -(2**64), 10**30, -(10**300)])
def test_an_integer_of_any_length_is_one(number: int) -> None:
    document = parse_json(b'{"numberOfAttendees":{"$gt":%d}}' % number)
    assert document == {"numberOfAttendees": {"$gt": number}}
    assert json.loads(write_json({"a": [number], "b": "é"})) == {"a": [number], "b": "é"}
    wanted = parse_filter(document)
    assert wanted.is_empty is (number >= MAX)
    assert parse_filter({"numberOfAttendees": {"$in": [number, 3]}}).numbers[-1] == (3, 3)
    assert parse_filter({"numberOfAttendees": {"$ne": number}}).is_empty is False


@pytest.mark.parametrize("spelt", [b"1.0", b"1e3", b"-1e30", b"-0.0"])
def test_a_fraction_or_exponent_is_no_integer(spelt: bytes) -> None:
    with pytest.raises(ValueError, match="a number with a fraction or exponent"):
        parse_filter(parse_json(b'{"numberOfAttendees":%b}' % spelt))


@pytest.mark.parametrize("body", [b"9" * 400, b"-" + b"9" * 100_000, b"1e999", b"NaN", b'"\\ud800"', b"\xff"])
def test_what_no_number_or_text_holds_is_no_json(body: bytes) -> None:
    refused(b'{"a":' + body + b"}")


@pytest.mark.parametrize("many", [b"{},", b"[],", b"1,", b'{"a":1},', b"[[[[1]]]],"])
def test_a_body_has_at_most_so_many_values(many: bytes) -> None:
    assert str(MAX_JSON_VALUES) in refused(b"[" + many * (MAX_JSON_VALUES + 1) + b"0]")
    few = MAX_JSON_VALUES // 6
    assert len(parse_json(b"[" + many * few + b"0]")) == few + 1


@pytest.mark.parametrize("depth", [2000, 100_000])
def test_a_deep_body_is_refused(depth: int) -> None:
    refused(b"[" * depth + b"]" * depth)
    refused(b'{"a":' * depth + b"1" + b"}" * depth)


def test_what_is_too_deep_to_write_is_said_to_be() -> None:
    deep: Any = 10**30
    for _ in range(300):
        deep = [deep]
    with pytest.raises(TypeError, match="Recursion"):
        write_json(deep)
