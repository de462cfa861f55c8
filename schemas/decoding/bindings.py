"""The Kafka protocol binding of CloudEvents: reads a record's value and headers into one dict, in structured or binary mode.

A record is in binary mode if it has the header ``ce_specversion``. Header names are compared case-insensitively.
"""

import json
import re
from base64 import b64decode
from collections.abc import Iterable
from functools import partial
from itertools import accumulate
from typing import Any

from schemas.decoding.causes import data_cause, header_cause, json_cause
from schemas.events import DeadLetter, Reason

Headers = Iterable[tuple[str, bytes | None]]

_PREFIX = "ce_"
_BINARY = "ce_specversion"
#: A client of a schema registry writes a zero byte and a schema id of four bytes before the JSON.
_FRAME, _FRAME_BYTES = b"\0", 5
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: First bytes of the values from which `unwrapped` strips a prefix.
WRAPPED = frozenset((_FRAME[0], _BYTE_ORDER_MARK[0]))
#: Objects and arrays within each other. How deep the parsers go depends on the stack of who calls them.
MAX_NESTING = 500
_without_texts = partial(re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL).sub, b"")
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_BRACKETS = bytes(set(range(256)) - set(_STEPS))
#: Fields that hold the data; a header of such a name is not an attribute.
_DATA = frozenset(("data", "data_base64"))


class InvalidRecord(Exception):
    """A record that cannot be decoded, with the dead letter to return for it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.dead_letter = DeadLetter(reason, detail)


def is_binary(headers: Headers) -> bool:
    """Whether the value is only the data, with the attributes in headers."""
    return any(name.lower() == _BINARY for name, _ in headers)


def unwrapped(value: bytes) -> bytes:
    """Strips the prefix of a schema registry, then a byte order mark."""
    if value.startswith(_FRAME):
        value = value[_FRAME_BYTES:]
    return value.removeprefix(_BYTE_ORDER_MARK)


def is_too_deep(document: bytes) -> bool:
    """Whether JSON nests objects and arrays deeper than `MAX_NESTING`."""
    if len(document) <= 2 * MAX_NESTING or document.count(b"[") + document.count(b"{") <= MAX_NESTING:
        return False
    brackets = _without_texts(document).translate(None, _NO_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_NESTING


def read_event(value: bytes | None, headers: Headers) -> dict[str, Any]:
    """The event of a record as the dict of structured mode, not validated.

    Raises:
        InvalidRecord: the value is not a JSON object, or an attribute in a header is not UTF-8.
    """
    if value is None:
        raise InvalidRecord(Reason.INVALID_JSON, "value: is null; send a JSON object")
    document = _object(value, Reason.INVALID_JSON, "value")
    return {**_attributes(headers), "data": document} if is_binary(headers) else document


def data_of(event: dict[str, Any]) -> dict[str, Any]:
    """The data of an event, decoded if it is in ``data_base64``.

    Raises:
        InvalidRecord: the data is missing or not an object.
    """
    data, encoded = event.get("data"), event.get("data_base64")
    if encoded is None:
        if not isinstance(data, dict):
            raise InvalidRecord(Reason.INVALID_FIELD, f"data: {data_cause(data)}write a JSON object")
        return data
    try:
        value = b64decode(encoded, validate=True)
    except (ValueError, TypeError):
        hint = "is not base64; send a JSON object encoded in base64, or the object itself as data"
        raise InvalidRecord(Reason.INVALID_FIELD, f"data_base64: {hint}") from None
    return _object(value, Reason.INVALID_FIELD, "data_base64")


def _object(value: bytes, reason: Reason, field: str) -> dict[str, Any]:
    text = unwrapped(value)
    try:
        document = json.loads(text.decode(), parse_constant=_reject_constant, parse_int=_parse_int)
        is_deep = is_too_deep(text)
    except RecursionError:
        is_deep = True
    except ValueError as error:
        raise InvalidRecord(reason, f"{field}: {json_cause(value, error)}") from None
    if is_deep:
        raise InvalidRecord(reason, f"{field}: nests objects and arrays too deep; nest at most {MAX_NESTING} of them")
    if not isinstance(document, dict):
        raise InvalidRecord(reason, f"{field}: {data_cause(document) or 'is JSON but not an object; '}send a JSON object")
    return document


def _attributes(headers: Headers) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for header, content in headers:
        name = header[len(_PREFIX) :].lower()
        if header[: len(_PREFIX)].lower() != _PREFIX or name in _DATA:
            continue
        try:
            attributes[name] = (content or b"").decode()
        except UnicodeDecodeError:
            raise InvalidRecord(Reason.INVALID_ENVELOPE, f"{header_cause(name)}is not UTF-8; encode it in UTF-8") from None
    return attributes


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _parse_int(digits: str) -> int | float:
    # int() of thousands of digits is slow and then fails; no field takes more than ten digits
    return int(digits) if len(digits) <= 20 else float("inf")
