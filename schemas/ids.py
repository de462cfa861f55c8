"""bookingId, sessionId and participantId: how long they may be, and the one spelling under which the system knows each.

Spellings that look the same are the same id: what nobody sees at either end is cut off, and accents are composed (NFC).
A control character or a lone surrogate anywhere makes a text no id.
"""

import re
from itertools import groupby
from unicodedata import combining, normalize

MAX_BOOKING_ID = 128
MAX_SESSION_ID = 250
MAX_PARTICIPANT_ID = 128
#: Of an event's ``id`` and ``source``, which stay as they are written.
MAX_NAME = 256

#: As JSON Schema writes that no control character is in a text.
NO_CONTROL_PATTERN = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
#: Finds the first character that no id, and no ``id`` or ``source`` of an event, may hold.
find_forbidden = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]").search

#: Unicode's White_Space but for the control characters in it, and the format characters that show nothing.
_INVISIBLE = "".join(
    chr(code)
    for first, last in (
        (0x20, 0x20),
        (0xA0, 0xA0),
        (0xAD, 0xAD),
        (0x61C, 0x61C),
        (0x1680, 0x1680),
        (0x180E, 0x180E),
        (0x2000, 0x200F),
        (0x2028, 0x202F),
        (0x205F, 0x206F),
        (0x3000, 0x3000),
        (0xFEFF, 0xFEFF),
    )
    for code in range(first, last + 1)
)
#: A character is at most so many when it is decomposed, so that composing takes at most three marks into another one.
_MOST_DECOMPOSED = 4
#: Marks that `combining` does not know, since each stands for two.
_DOUBLE_MARKS = "\u0f73\u0f75\u0f81"
_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch


def booking_id(text: str) -> str | None:
    """The normalised bookingId that a text spells; None where it spells none."""
    found = _normalised(text, MAX_BOOKING_ID)
    return found and lower_guid(found)


def session_id(text: str) -> str | None:
    """The normalised sessionId that a text spells; None where it spells none."""
    found = _normalised(text, MAX_SESSION_ID)
    return found and lower_guid(found)


def participant_id(text: str) -> str | None:
    """The normalised participantId that a text spells; None where it spells none."""
    return _normalised(text, MAX_PARTICIPANT_ID)


def lower_guid(text: str) -> str:
    """The text, in lower case where it is a GUID."""
    return text.lower() if len(text) == 36 and _GUID(text) else text


def trimmed(text: str) -> str:
    """The text without what nobody sees at its ends."""
    return text.strip(_INVISIBLE)


def _normalised(text: str, longest: int) -> str | None:
    if find_forbidden(text):
        return None
    text = trimmed(text)
    if not text.isascii() and _may_fit(text, longest):
        text = normalize("NFC", text)
    return text if 0 < len(text) <= longest else None


def _may_fit(text: str, longest: int) -> bool:
    """Whether a text may be short enough once it is composed: composing sorts marks in quadratic time."""
    if len(text) <= longest:
        return True
    if len(text) > _MOST_DECOMPOSED * longest:
        return False
    marks = groupby(text, lambda each: combining(each) > 0 or each in _DOUBLE_MARKS)
    return max((sum(1 for _ in run) for is_mark, run in marks if is_mark), default=0) < longest + _MOST_DECOMPOSED
