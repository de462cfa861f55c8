"""Finds bookingIds in records that cannot be decoded: in their keys, headers and values, whatever these are.

The time is linear in the size of a record, however many ids are searched for, since anybody can publish one.
"""

import re
from base64 import b64decode
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any
from unicodedata import normalize

from schemas import ids

_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_BASE64 = re.compile(r'"data_base64"\s*:\s*"([A-Za-z0-9+/]*)')
_BOOKING_ID = re.compile(r'"bookingId"\s*:\s*"((?:[^"\\]|\\.)*)')
_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_WORD = re.compile(r"[^\W_]+")


def ids_in(record: Any) -> set[str]:
    """The normalised ids that a record seems to name: its key, the contents of its headers, fields ``bookingId``, GUIDs."""
    found = {content.decode(errors="replace") for content in _short_contents(record)}
    for text in _texts(record):
        found.update(_unescaped(each) for each in _BOOKING_ID.findall(text))
        found.update(_GUID.findall(text))
    return {normal for each in found if (normal := ids.booking_id(each)) is not None}


class Mentions:
    """Finds given bookingIds in records: where they stand between other characters than letters and digits, escaped or not."""

    def __init__(self, bookings: Iterable[str]) -> None:
        spelled = {form for each in bookings for form in (each, normalize("NFD", each))}
        self._anywhere = _Search(spelled)
        self._in_lower_case = _Search(each for each in spelled if ids.is_lower_guid(each))

    def are_in(self, record: Any) -> bool:
        """Whether one of them is in a record."""
        return any(map(self._is_in, _texts(record)))

    def are_in_bytes(self, content: bytes) -> bool:
        """Whether one of them is in a part of a line."""
        return any(map(self._is_in, _spellings(content)))

    def _is_in(self, text: str) -> bool:
        return self._anywhere.is_in(text) or self._in_lower_case.is_in(text.lower())


class _Search:
    """Looks only where the first word of an id begins, for ids of the lengths that begin with that word."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)
        self._spans: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
        """By the first word of names, where it begins in them, and how long they are."""
        self._wordless = []
        for name in self._names:
            if word := _WORD.search(name):
                self._spans[word[0]].add((word.start(), len(name)))
            else:
                self._wordless.append(name)

    def is_in(self, text: str) -> bool:
        """Whether one of the names is in a text."""
        if not self._names:
            return False
        return any(self._is_at(text, word) for word in _WORD.finditer(text)) or any(each in text for each in self._wordless)

    def _is_at(self, text: str, word: re.Match[str]) -> bool:
        for before, length in self._spans.get(word[0], ()):
            begin = word.start() - before
            end = begin + length
            goes_on = end < len(text) and _WORD.fullmatch(text, end - 1, end + 1)
            if begin >= 0 and not goes_on and text[begin:end] in self._names:
                return True
        return False


def _short_contents(record: Any) -> Iterator[bytes]:
    """Key and headers, as far as they may be an id."""
    contents = [record.key, *(content for _, content in record.headers)]
    return (each for each in contents if each is not None and len(each) <= 16 * ids.MAX_BOOKING_ID)


def _texts(record: Any) -> Iterator[str]:
    """Everything that a record holds, as text."""
    yield from (name for name, _ in record.headers)
    for content in (record.key, *(content for _, content in record.headers), record.value):
        yield from _spellings(content or b"")


def _spellings(content: bytes) -> Iterator[str]:
    """The text of bytes, as it stands, without escapes, and what a field ``data_base64`` of it holds."""
    text = content.decode(errors="replace")
    yield text
    if "\\" in text:
        yield _unescaped(text)
    for digits in _BASE64.findall(text):
        with suppress(ValueError):
            decoded = b64decode(digits[: len(digits) // 4 * 4] if len(digits) % 4 == 1 else digits + "=" * (-len(digits) % 4))
            inner = decoded.decode(errors="replace")
            yield inner
            if "\\" in inner:
                yield _unescaped(inner)


def _unescaped(text: str) -> str:
    """A text in which the escapes of JSON are replaced by what they stand for."""
    plain = _ESCAPE.sub(lambda each: chr(int(each[1], 16)) if each[1] else _CONTROLS.get(each[2], each[2]), text)
    # two escapes may stand for one character
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
