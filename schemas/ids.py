"""The limits of an event's fields, and the normal form of bookingId, sessionId and participantId.

Texts that look the same are the same id: invisible characters at either end are trimmed, and accents are composed (NFC).
A text with a control character or a lone surrogate is not an id.
"""

import re
from itertools import groupby
from unicodedata import combining, normalize

MAX_BOOKING_ID = 128
MAX_SESSION_ID = 250
MAX_PARTICIPANT_ID = 128
#: Of an event's ``id`` and ``source``, which are not normalised.
MAX_NAME = 256
#: The largest numberOfAttendees and numberOfParticipants of an event.
MAX_ATTENDEES = 100_000
MAX_PARTICIPANTS = 100_000
GUID_LENGTH = 36

#: JSON Schema pattern of a text without control characters.
NO_CONTROL_PATTERN = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"
#: Finds the first character that is forbidden in ids, and in the ``id`` and ``source`` of an event.
find_forbidden = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]").search
is_guid = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}").fullmatch
is_lower_guid = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch

#: Unicode's White_Space without its control characters, and the invisible format characters.
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
#: A character decomposes into at most this many: composing merges at most three marks into another character.
_MOST_DECOMPOSED = 4
#: Marks for which `combining` returns 0, since each stands for two.
_DOUBLE_MARKS = "\u0f73\u0f75\u0f81"


def booking_id(text: str) -> str | None:
    """The normalised bookingId; None if the text is not a bookingId."""
    normalised = _normalised(text, MAX_BOOKING_ID)
    return normalised and lower_guid(normalised)


def session_id(text: str) -> str | None:
    """The normalised sessionId; None if the text is not a sessionId."""
    normalised = _normalised(text, MAX_SESSION_ID)
    return normalised and lower_guid(normalised)


def participant_id(text: str) -> str | None:
    """The normalised participantId; None if the text is not a participantId."""
    return _normalised(text, MAX_PARTICIPANT_ID)


def lower_guid(text: str) -> str:
    """The text, in lower case if it is a GUID."""
    return text.lower() if len(text) == GUID_LENGTH and is_guid(text) else text


def trimmed(text: str) -> str:
    """The text without invisible characters at its ends."""
    return text.strip(_INVISIBLE)


def _normalised(text: str, max_length: int) -> str | None:
    if find_forbidden(text):
        return None
    text = trimmed(text)
    if not text.isascii() and _may_fit(text, max_length):
        text = normalize("NFC", text)
    return text if 0 < len(text) <= max_length else None


def _may_fit(text: str, max_length: int) -> bool:
    """Whether a text may fit once it is composed. Checked first, since composing sorts marks in quadratic time."""
    if len(text) <= max_length:
        return True
    if len(text) > _MOST_DECOMPOSED * max_length:
        return False
    marks = groupby(text, lambda each: combining(each) > 0 or each in _DOUBLE_MARKS)
    return max((sum(1 for _ in run) for is_mark, run in marks if is_mark), default=0) < max_length + _MOST_DECOMPOSED
