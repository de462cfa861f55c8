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
#: Times with milliseconds and ``Z`` are cached: there are 1,000 such fractions, and finer ones hardly repeat.
_MAX_CACHED_LENGTH = len("2026-11-22T10:00:00.123Z")
_CACHE_SIZE = 10_000
_minutes: dict[str, int] = {}
_seconds = {f"{second:02d}": second * 1_000_000 for second in range(60)}
_fractions: dict[str, int] = {}


def parse_time(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 date-time with offset; finer digits are truncated.

    Raises:
        ValueError: ``text`` is not such a date-time.
    """
    try:
        # minute, second and fraction are independent, and each repeats often
        return _minutes[text[:17]] + _seconds[text[17:19]] + _fractions[text[19:]]
    except KeyError:
        return _parse(text)


def _parse(text: str) -> int:
    if _SHAPE(text) is None:
        raise ValueError("not an RFC 3339 date-time with offset")
    try:
        since = datetime.fromisoformat(text) - _EPOCH
    except (ValueError, OverflowError):
        since = _since_epoch_beyond_datetime(text.upper())
    micros = (since.days * _DAY + since.seconds) * 1_000_000 + since.microseconds
    if len(text) <= _MAX_CACHED_LENGTH and text[-1] in "Zz" and text[17:19] in _seconds:
        _cache_parts(text, micros)
    return micros


def _cache_parts(text: str, micros: int) -> None:
    fraction = int(float("0" + text[19:-1]) * 1000 + 0.5) * 1000
    minute = micros - _seconds[text[17:19]] - fraction
    for cache, part, part_micros in ((_minutes, text[:17], minute), (_fractions, text[19:], fraction)):
        if len(cache) >= _CACHE_SIZE:
            cache.clear()
        cache[part] = part_micros


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
