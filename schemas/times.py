"""Parses and formats RFC 3339. A time is an integer: microseconds since the epoch, UTC."""

import re
from datetime import datetime, timedelta
from functools import lru_cache

_SHAPE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
).fullmatch
_NAIVE_EPOCH = datetime(1970, 1, 1)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")
_DAY = 86400
#: The first and the last time that RFC 3339 can write, microseconds.
FIRST, LAST = ((moment - _NAIVE_EPOCH) // timedelta(microseconds=1) for moment in (datetime.min, datetime.max))
_CACHE_SIZE = 10_000


def parse_time(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 date-time with offset; finer digits are truncated.

    Raises:
        ValueError: ``text`` is not such a date-time.
    """
    if _SHAPE(text) is None:
        raise ValueError("not an RFC 3339 date-time with offset")
    try:
        since = datetime.fromisoformat(text) - _EPOCH
    except (ValueError, OverflowError):
        since = _since_epoch_beyond_datetime(text.upper())
    return (since.days * _DAY + since.seconds) * 1_000_000 + since.microseconds


def _since_epoch_beyond_datetime(text: str) -> timedelta:
    """For what RFC 3339 allows and ``datetime`` does not: lower-case letters, leap seconds, times beyond 1-9999 in UTC."""
    is_leap_second = text[17:19] == "60"
    moment = datetime.fromisoformat(text[:17] + "59" + text[19:] if is_leap_second else text)
    offset = moment.utcoffset() or timedelta()
    return moment.replace(tzinfo=None) - _NAIVE_EPOCH - offset + timedelta(seconds=is_leap_second)


def format_time(micros: int) -> str:
    """RFC 3339 in UTC with ``Z``, truncated to milliseconds; a time beyond the years 1-9999 becomes the first or last one."""
    if not FIRST <= micros <= LAST:
        # a valid date-time with an offset can be beyond these years in UTC
        micros = LAST if micros > 0 else FIRST
    seconds, rest = divmod(micros, 1_000_000)
    return f"{_second(seconds)}{rest // 1000:03}Z"


def format_exact_time(micros: int) -> str:
    """As `format_time`, with all six digits, for an event that must come directly after another."""
    return f"{format_time(micros)[:-4]}{micros % 1_000_000:06}Z"


@lru_cache(maxsize=_CACHE_SIZE)
def _second(seconds: int) -> str:
    return (_NAIVE_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds") + "."
