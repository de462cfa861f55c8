"""RFC 3339 in and out; inside, a time is an integer of microseconds since the epoch, UTC."""

import re
from datetime import datetime, timedelta
from functools import lru_cache

_SHAPE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
).fullmatch
_NAIVE_EPOCH = datetime(1970, 1, 1)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")
_DAY = 86400
#: The years that RFC 3339 can write, microseconds.
FIRST, LAST = ((moment - _NAIVE_EPOCH) // timedelta(microseconds=1) for moment in (datetime.min, datetime.max))
#: Up to milliseconds and ``Z``; there are 1,000 of those fractions, and finer ones hardly repeat.
_REMEMBERED_LENGTH = len("2026-11-22T10:00:00.123Z")
_REMEMBERED = 10_000
_minutes: dict[str, int] = {}
_seconds = {f"{second:02d}": second * 1_000_000 for second in range(60)}
_fractions: dict[str, int] = {}


def parse_time(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 date-time with offset, finer digits cut.

    Raises:
        ValueError: ``text`` is not such a date-time.
    """
    try:
        # a minute, a second and a fraction are independent, and devices repeat them all
        return _minutes[text[:17]] + _seconds[text[17:19]] + _fractions[text[19:]]
    except KeyError:
        return _parse(text)


def _parse(text: str) -> int:
    if _SHAPE(text) is None:
        raise ValueError("not an RFC 3339 date-time with offset")
    try:
        since = datetime.fromisoformat(text) - _EPOCH
    except (ValueError, OverflowError):
        since = _since_epoch_rare(text.upper())
    micros = (since.days * _DAY + since.seconds) * 1_000_000 + since.microseconds
    if len(text) <= _REMEMBERED_LENGTH and text[-1] in "Zz" and text[17:19] in _seconds:
        _remember(text, micros)
    return micros


def _remember(text: str, micros: int) -> None:
    fraction = int(float("0" + text[19:-1]) * 1000 + 0.5) * 1000
    minute = micros - _seconds[text[17:19]] - fraction
    for known, part, share in ((_minutes, text[:17], minute), (_fractions, text[19:], fraction)):
        if len(known) >= _REMEMBERED:
            known.clear()
        known[part] = share


def _since_epoch_rare(text: str) -> timedelta:
    """What RFC 3339 allows and ``datetime`` does not: lower-case marks, leap seconds, years whose UTC is beyond 1-9999."""
    leap = text[17:19] == "60"
    moment = datetime.fromisoformat(text[:17] + "59" + text[19:] if leap else text)
    offset = moment.utcoffset() or timedelta()
    return moment.replace(tzinfo=None) - _NAIVE_EPOCH - offset + timedelta(seconds=leap)


def format_time(micros: int) -> str:
    """RFC 3339 of microseconds since the epoch: UTC, milliseconds (cut), ``Z``; years beyond 1-9999 at their bound."""
    if not FIRST <= micros <= LAST:
        # an offset can carry a date-time that RFC 3339 allows beyond the years that it can write
        micros = LAST if micros > 0 else FIRST
    seconds, rest = divmod(micros, 1_000_000)
    return f"{_second(seconds)}{rest // 1000:03}Z"


def format_exact_time(micros: int) -> str:
    """As `format_time`, with all six digits: for an event that must lie right behind another."""
    return f"{format_time(micros)[:-4]}{micros % 1_000_000:06}Z"


@lru_cache(maxsize=_REMEMBERED)
def _second(seconds: int) -> str:
    return (_NAIVE_EPOCH + timedelta(seconds=seconds)).isoformat(timespec="seconds") + "."
