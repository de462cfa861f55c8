"""RFC 3339 in and out; inside, a time is an integer of microseconds since the epoch, UTC."""

import re
from datetime import datetime, timedelta

_SHAPE = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
).fullmatch
_NAIVE_EPOCH = datetime(1970, 1, 1)
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00Z")
_DAY = 86400


def parse_time(text: str) -> int:
    """Microseconds since the epoch of an RFC 3339 date-time with offset, finer digits cut.

    Raises:
        ValueError: ``text`` is not such a date-time.
    """
    if _SHAPE(text) is None:
        raise ValueError("not an RFC 3339 date-time with offset")
    try:
        since = datetime.fromisoformat(text) - _EPOCH
    except (ValueError, OverflowError):
        since = _since_epoch_rare(text.upper())
    return (since.days * _DAY + since.seconds) * 1_000_000 + since.microseconds


def _since_epoch_rare(text: str) -> timedelta:
    """What RFC 3339 allows and ``datetime`` does not: lower-case marks, leap seconds, years whose UTC is beyond 1-9999."""
    leap = text[17:19] == "60"
    moment = datetime.fromisoformat(text[:17] + "59" + text[19:] if leap else text)
    offset = moment.utcoffset() or timedelta()
    return moment.replace(tzinfo=None) - _NAIVE_EPOCH - offset + timedelta(seconds=leap)


def format_time(micros: int) -> str:
    """RFC 3339 of microseconds since the epoch: UTC, milliseconds (cut), ``Z``; years beyond 1-9999 at their bound."""
    try:
        moment = _NAIVE_EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        # an offset can carry a date-time that RFC 3339 allows beyond the years that it can write
        moment = datetime.max if micros > 0 else datetime.min
    return moment.isoformat(timespec="milliseconds") + "Z"
