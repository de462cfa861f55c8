"""Chooses the records that may concern a booking, by their bytes: a partition holds records of thousands of bookings.

It never leaves one out, however its bookingId is spelled: with escapes, in base64, in upper case (GUIDs), or with accents
that are not composed. Decoding each record instead would take ten times as long.
"""

import re
from collections.abc import Sequence
from typing import Any
from unicodedata import is_normalized

from schemas import ids

#: Records that are searched together: nearly always none of them is of the booking.
_CHUNK = 256
#: Characters that NFC replaces by one of ASCII, and the bytes of each.
LOOK_ALIKES = {";": "\u037e".encode(), "`": "\u1fef".encode(), "K": "\u212a".encode()}
#: Data in base64 may hide any bookingId.
_HIDING = b"data_base64"
#: Characters after a backslash in JSON: u hides any others. A backslash alone also occurs between the values of a batch.
_ESCAPED = frozenset('/"\\')


class BookingFilter:
    """The filter of one booking.

    Args:
        booking_id: normalised.
    """

    def __init__(self, booking_id: str) -> None:
        self._id = booking_id.encode()
        self._is_guid = ids.is_lower_guid(booking_id) is not None
        self._is_ascii = booking_id.isascii()
        look_alikes = [encoded for character, encoded in LOOK_ALIKES.items() if character in booking_id]
        # a GUID is searched for in lower case, at the end
        self._needles = (*look_alikes, _HIDING) if self._is_guid else (self._id, *look_alikes, _HIDING)
        escaped = "".join(sorted(_ESCAPED.intersection(booking_id)))
        # twice as fast as the search for a needle of two bytes
        self._escape = re.compile(rb"\\[u%b]" % re.escape(escaped).encode()).search

    def select(self, records: Sequence[Any]) -> list[Any]:
        """The records with the booking's key, and those whose value may hold its bookingId."""
        selected: list[Any] = []
        for start in range(0, len(records), _CHUNK):
            chunk = records[start : start + _CHUNK]
            # by list: most keys are of other bookings, and comparing them is all that is done to them
            has_key = self._id in [record.key for record in chunk]
            if has_key or self.may_hold(b"\n".join([record.value or b"" for record in chunk])):
                selected += [each for each in chunk if each.key == self._id or (each.value and self.may_hold(each.value))]
        return selected

    def may_hold(self, value: bytes | bytearray) -> bool:
        """Whether a value, or bytes that hold several of them, may hold the bookingId; never False if one does."""
        for needle in self._needles:
            if needle in value:
                return True
        if self._escape(value):
            return True
        if self._is_guid:
            return self._id in value.lower()
        if self._is_ascii or value.isascii():
            return False
        # each part of a text in NFC is in NFC itself, so it would hold the id as it is
        return not is_normalized("NFC", value.decode(errors="replace"))
