"""Describes what is wrong with a field of a record; how to fix it is in `schemas.decoding.hints`.

Every detail is one printable line that begins with the field's path and a colon.
"""

from collections.abc import Iterable
from math import isfinite
from typing import Any

from pydantic_core import ErrorDetails

from schemas.decoding.hints import FIX_HINTS, STATUS_FIX_HINTS
from schemas.events import CONTROL_CHARACTER, EventType
from schemas.ids import find_forbidden
from schemas.query.violations import spelled

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
#: Error types of a value that must be text.
_TEXT_ERRORS = frozenset(("string_type", "literal_error", "enum"))
#: Error types of a text with a forbidden character.
_CHARACTER_ERRORS = frozenset((CONTROL_CHARACTER, "string_unicode"))
_FIRST_SURROGATE = "\ud800"


def field_detail(error: ErrorDetails, prefix: str, kind: str) -> str:
    """The detail of an error that pydantic found.

    Args:
        prefix: the path of the validated object in the event, with a dot at its end unless empty.
        kind: the event's type, empty while it is unknown.
    """
    path = [str(part) for part in error["loc"]]
    field = next(part for part in reversed(path) if part in FIX_HINTS)
    hint = STATUS_FIX_HINTS[EventType(kind)] if field == "status" else FIX_HINTS[field]
    return f"{prefix}{'.'.join(path)}: {_cause(error['type'], error['input'])}{hint}"


def _cause(error: str, value: Any) -> str:
    if error == "missing":
        return "is missing; "
    if not isinstance(value, str):
        unquoted = ", not text in quotes" if error in _TEXT_ERRORS and isinstance(value, int | float) else ""
        return f"is {_describe(value)}{unquoted}; "
    forbidden = find_forbidden(value) if error in _CHARACTER_ERRORS else None
    if forbidden is not None:
        surrogate = forbidden[0] >= _FIRST_SURROGATE
        return f"contains the {'lone surrogate' if surrogate else 'control character'} U+{ord(forbidden[0]):04X}; "
    if error == "string_too_short":
        return "is empty; "
    if error == "string_too_long":
        return f"has {len(value)} characters; "
    return f'is the text "{spelled(value)}"; '


def _describe(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"the number {value}"
    if isinstance(value, float):
        return "a number with a fraction or exponent" if isfinite(value) else "a number of more than 20 digits"
    return "a list" if isinstance(value, list) else "an object"


def time_detail(path: str, text: str) -> str:
    """The detail of a text that is not a date-time."""
    return f'{path}: is the text "{spelled(text)}"; {FIX_HINTS[path.rpartition(".")[2]]}'


def data_cause(data: Any) -> str:
    """The cause if the data is an object that was encoded to text; empty for any other data."""
    return "is a JSON object encoded twice, as text; " if isinstance(data, str) and data.lstrip().startswith("{") else ""


def json_cause(value: bytes, error: Exception) -> str:
    """Why bytes are not JSON, and what to write."""
    if value.startswith(_UTF_16):
        return "is UTF-16; write JSON in UTF-8"
    return f"is not JSON in UTF-8 ({str(error)[:100]})"


def header_cause(name: str) -> str:
    """The beginning of a detail about an attribute from a header."""
    return f"{name}: the header ce_{name} "


def quoted_header_detail(name: str, text: object) -> str | None:
    """The detail of an attribute from a header that has the quotation marks of a JSON serializer; None if it has none."""
    if isinstance(text, str) and len(text) > 1 and text[0] == text[-1] == '"':
        return f"{header_cause(name)}is in quotation marks, as in JSON; write it without them"
    return None


def mode_detail(names: Iterable[str]) -> str | None:
    """The detail of a value without ``specversion`` whose attributes seem to be in headers; None if they do not.

    Args:
        names: the names of the headers, in lower case.
    """
    for name in names:
        if name.startswith("ce-"):
            hint = "on Kafka prefix each attribute with ce_, specversion too"
            return f"specversion: is missing; {spelled(name)} is a header of the HTTP binding; {hint}"
        if name.startswith(("ce_id", "ce_type", "ce_source", "ce_time")):
            return "specversion: is missing; binary mode needs the header ce_specversion"
    return None
