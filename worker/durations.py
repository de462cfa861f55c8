"""Durations as settings and options have them: ``90s``, ``5m``, ``2h`` or ``30d``."""

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
DURATION_HINT = "write a duration as 90s, 5m, 2h or 30d, at most 36500d"


def _read(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([smhd])", text.strip())
    try:
        # None refuses a number without a unit, which pydantic would take for seconds
        return timedelta(**{_UNITS[match[2]]: float(match[1])}) if match else None if _is_number(text) else text
    except OverflowError:
        return None


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[\d.\s]*", text) is not None


Duration = Annotated[timedelta, BeforeValidator(_read), Field(ge=timedelta(0), le=timedelta(days=36_500))]
"""The type of a setting."""


def duration(text: str) -> timedelta | None:
    """The duration that a text writes; None if the text is no duration."""
    value = _read(text)
    return value if isinstance(value, timedelta) else None


def written(duration: timedelta) -> str:
    """A duration as a setting has it, in the largest unit of which it is a whole number."""
    for unit, name in reversed(_UNITS.items()):
        if duration and not duration % timedelta(**{name: 1}):
            return f"{duration // timedelta(**{name: 1})}{unit}"
    return f"{duration.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"


def micros(duration: timedelta) -> int:
    """Whole microseconds of a duration."""
    return duration // timedelta(microseconds=1)
