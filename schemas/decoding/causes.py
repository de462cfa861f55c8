"""What is wrong with a field, in words that name the real cause; the cure for it is in `schemas.decoding.hints`.

Every detail is one printable line that begins with the field's place and a colon.
"""

from collections.abc import Iterable
from math import isfinite
from typing import Any

from pydantic_core import ErrorDetails

from schemas.decoding.hints import CURES, STATUS_CURES
from schemas.events import CONTROL_CHARACTER, EventType
from schemas.ids import find_forbidden
from schemas.query.violations import spelled

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
#: Errors of what must be text.
_TEXTS = frozenset(("string_type", "literal_error", "enum"))
#: Errors of a character that may not be in a text.
_CHARACTERS = frozenset((CONTROL_CHARACTER, "string_unicode"))
_FIRST_SURROGATE = "\ud800"


def field_detail(error: ErrorDetails, prefix: str, kind: str) -> str:
    """What a finding of pydantic means.

    Args:
        prefix: what stands before the field's place in the event.
        kind: the event's type, as far as it is known.
    """
    place = [str(part) for part in error["loc"]]
    field = next(part for part in reversed(place) if part in CURES)
    cure = STATUS_CURES[EventType(kind)] if field == "status" else CURES[field]
    return f"{prefix}{'.'.join(place)}: {_cause(error['type'], error['input'])}{cure}"


def _cause(error: str, given: Any) -> str:
    if error == "missing":
        return "is missing; "
    if not isinstance(given, str):
        unquoted = ", not text in quotes" if error in _TEXTS and isinstance(given, int | float) else ""
        return f"is {_kind(given)}{unquoted}; "
    found = find_forbidden(given) if error in _CHARACTERS else None
    if found is not None:
        surrogate = found[0] >= _FIRST_SURROGATE
        return f"holds {'half of the surrogate pair' if surrogate else 'the control character'} U+{ord(found[0]):04X}; "
    if error == "string_too_short":
        return "is empty; "
    if error == "string_too_long":
        return f"has {len(given)} characters; "
    return f'is the text "{spelled(given)}"; '


def _kind(given: Any) -> str:
    if given is None:
        return "null"
    if isinstance(given, bool):
        return "true" if given else "false"
    if isinstance(given, int):
        return f"the number {given}"
    if isinstance(given, float):
        return "a number with a fraction or exponent" if isfinite(given) else "a number of more than 20 digits"
    return "a list" if isinstance(given, list) else "an object"


def time_detail(place: str, text: str) -> str:
    """The detail of a text that is no date-time."""
    return f'{place}: is the text "{spelled(text)}"; {CURES[place.rpartition(".")[2]]}'


def data_cause(data: Any) -> str:
    """Why data that should be an object is none, where that can be told."""
    return "holds JSON as text: it was encoded twice; " if isinstance(data, str) and data.lstrip().startswith("{") else ""


def json_cause(value: bytes, error: Exception) -> str:
    """Why bytes are no JSON, and what to write."""
    if value.startswith(_UTF_16):
        return "is UTF-16; write JSON in UTF-8"
    return f"not JSON in UTF-8 ({str(error)[:100]})"


def header_cause(name: str) -> str:
    """How a detail of an attribute begins that came in a header."""
    return f"{name}: the header ce_{name} "


def quoted_header_detail(name: str, text: object) -> str | None:
    """The detail of an attribute from a header that a JSON serializer wrote, with its quotation marks; None of any other."""
    if isinstance(text, str) and len(text) > 1 and text[0] == text[-1] == '"':
        return f"{header_cause(name)}holds quotation marks, as JSON writes text; write the text without them"
    return None


def mode_detail(names: Iterable[str]) -> str | None:
    """The detail of a value without ``specversion`` whose attributes seem to be in headers of these names, in lower case."""
    for name in names:
        if name.startswith("ce-"):
            cure = "on Kafka write ce_ before each attribute, specversion too"
            return f"specversion: is missing; {spelled(name)} is how HTTP spells a header: {cure}"
        if name.startswith(("ce_id", "ce_type", "ce_source", "ce_time")):
            return "specversion: is missing; binary mode needs the header ce_specversion"
    return None
