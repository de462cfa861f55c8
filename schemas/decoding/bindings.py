"""The Kafka binding of CloudEvents: from a record's value and headers to one event as a dict, whatever wrote it.

Binary mode is recognised by the header ``ce_specversion`` alone; names of headers are compared without case.
"""

import json
from base64 import b64decode
from collections.abc import Iterable
from typing import Any

from schemas.decoding.causes import data_cause, header_cause, json_cause
from schemas.events import DeadLetter, Reason

Headers = Iterable[tuple[str, bytes | None]]

_PREFIX = "ce_"
_BINARY = "ce_specversion"
#: Before the JSON, a client of a schema registry writes a zero and four bytes that name the schema.
_FRAME, _FRAME_BYTES = b"\0", 5
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
#: First bytes of values that `unwrapped` shortens.
WRAPPED = frozenset((_FRAME[0], _BYTE_ORDER_MARK[0]))
#: Fields that hold the data, and so are no attributes.
_DATA = frozenset(("data", "data_base64"))


class Refused(Exception):
    """Carries a dead letter to where it is returned."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.letter = DeadLetter(reason, detail)


def is_binary(headers: Headers) -> bool:
    """Whether the value is the data alone, and the attributes are in headers."""
    return any(name.lower() == _BINARY for name, _ in headers)


def unwrapped(value: bytes) -> bytes:
    """The value without a schema registry's frame, then without a byte order mark."""
    if value.startswith(_FRAME):
        value = value[_FRAME_BYTES:]
    return value.removeprefix(_BYTE_ORDER_MARK)


def read_event(value: bytes | None, headers: Headers) -> dict[str, Any]:
    """The event in a record, as structured mode has it; nothing in it is checked.

    Raises:
        Refused: the value is no JSON object, or an attribute in a header is no UTF-8.
    """
    if value is None:
        raise Refused(Reason.INVALID_JSON, "value: is null; send a JSON object")
    document = _object(value, Reason.INVALID_JSON, "value")
    return {**_attributes(headers), "data": document} if is_binary(headers) else document


def data_of(event: dict[str, Any]) -> dict[str, Any]:
    """The data of an event, also where it is in ``data_base64``.

    Raises:
        Refused: it is missing or no object.
    """
    data, encoded = event.get("data"), event.get("data_base64")
    if encoded is None:
        if not isinstance(data, dict):
            raise Refused(Reason.INVALID_FIELD, f"data: {data_cause(data)}write a JSON object")
        return data
    try:
        value = b64decode(encoded, validate=True)
    except (ValueError, TypeError):
        cure = "is no base64; write the bytes of a JSON object in base64, or the object itself as data"
        raise Refused(Reason.INVALID_FIELD, f"data_base64: {cure}") from None
    return _object(value, Reason.INVALID_FIELD, "data_base64")


def _object(value: bytes, reason: Reason, field: str) -> dict[str, Any]:
    try:
        document = json.loads(unwrapped(value).decode(), parse_constant=_no_constant, parse_int=_whole)
    except (ValueError, RecursionError) as error:
        raise Refused(reason, f"{field}: {json_cause(value, error)}") from None
    if not isinstance(document, dict):
        raise Refused(reason, f"{field}: {data_cause(document)}JSON, but no object; send a JSON object")
    return document


def _attributes(headers: Headers) -> dict[str, str]:
    found: dict[str, str] = {}
    for header, content in headers:
        name = header[len(_PREFIX) :].lower()
        if header[: len(_PREFIX)].lower() != _PREFIX or name in _DATA:
            continue
        try:
            found[name] = (content or b"").decode()
        except UnicodeDecodeError:
            raise Refused(Reason.INVALID_ENVELOPE, f"{header_cause(name)}is no UTF-8; write it in UTF-8") from None
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _whole(digits: str) -> int | float:
    # int() of thousands of digits is slow and then refused; no field takes more than ten
    return int(digits) if len(digits) <= 20 else float("inf")
