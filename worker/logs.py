"""Logs: one line per event on stderr, in logfmt or JSON, from this project and from its clients."""

import logging
import sys
import time
from typing import Any

import structlog
import structlog.typing

from worker.settings import Settings

_CLIENT_SECONDS = 30.0


class _Printer(structlog.PrintLogger):
    """Writes to stderr, under a module's name."""

    def __init__(self, name: str = "") -> None:
        super().__init__(sys.stderr)
        self.name = name


class _RateLimit(logging.Filter):
    """Passes one line per half minute: while a broker is unavailable, a Kafka client logs the same many times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0
        self._suppressed = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if time.monotonic() < self._next:
            self._suppressed += 1
            return False
        if self._suppressed:
            record.msg = f"{record.getMessage()} ({self._suppressed} more lines suppressed in the last half minute)"
            record.args = ()
        self._next, self._suppressed = time.monotonic() + _CLIENT_SECONDS, 0
        return True


class _NoCredentials(logging.Filter):
    """Drops what aiokafka logs of a login at DEBUG: the bytes of the request contain user and password."""

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        return not any(type(argument).__name__.startswith("Sasl") for argument in arguments)


def configure_client_logs(settings: Settings) -> None:
    """Logs of Faust and aiokafka: from WARNING on and rate limited, unless ``ATTENDANCE_LOG_LEVEL`` is DEBUG."""
    level = _level(settings)
    is_debug = level <= logging.DEBUG
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_COMMON_FIELDS,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info if is_debug else _in_one_line,
                _renderer(settings),
            ],
        )
    )
    handler.addFilter(_NoCredentials())
    if not is_debug:
        handler.addFilter(_RateLimit())
    logging.basicConfig(level=level if is_debug else max(level, logging.WARNING), handlers=[handler], force=True)


def configure_logs(settings: Settings) -> None:
    """Logs of this project, at ``ATTENDANCE_LOG_LEVEL``."""
    structlog.configure(
        processors=[*_COMMON_FIELDS, _renderer(settings)],
        wrapper_class=structlog.make_filtering_bound_logger(_level(settings)),
        logger_factory=_Printer,
    )


#: Fields of every line.
_COMMON_FIELDS: list[structlog.typing.Processor] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def _renderer(settings: Settings) -> structlog.typing.Processor:
    if settings.log_format == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    return structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "logger", "event"])


def _in_one_line(_: Any, __: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Replaces a traceback by the error's repr."""
    error = entry.pop("exc_info", None)
    entry.pop("stack_info", None)
    if isinstance(error, tuple):
        error = error[1]
    return {**entry, "error": repr(error)} if error else entry


def _level(settings: Settings) -> int:
    return logging.getLevelNamesMapping()[settings.log_level]
