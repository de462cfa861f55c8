"""Logs: one line an event on stderr, in logfmt or JSON; our own and the clients' alike."""

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


class _Seldom(logging.Filter):
    """Lets a Kafka client say something every half minute: while a broker is away it repeats itself many times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0
        self._held = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if time.monotonic() < self._next:
            self._held += 1
            return False
        if self._held:
            record.msg = f"{record.getMessage()} ({self._held} more lines in the last half minute)"
            record.args = ()
        self._next, self._held = time.monotonic() + _CLIENT_SECONDS, 0
        return True


class _NoLogin(logging.Filter):
    """Leaves out what aiokafka logs at DEBUG of a login: the request's bytes hold user and password."""

    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        return not any(type(argument).__name__.startswith("Sasl") for argument in arguments)


def configure_client_logs(settings: Settings) -> None:
    """The words of Faust and aiokafka from WARNING on, and seldom, unless ``ATTENDANCE_LOG_LEVEL`` is DEBUG."""
    level = _level(settings)
    is_debug = level <= logging.DEBUG
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_WHO_AND_WHEN,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info if is_debug else _in_one_line,
                _renderer(settings),
            ],
        )
    )
    handler.addFilter(_NoLogin())
    if not is_debug:
        handler.addFilter(_Seldom())
    logging.basicConfig(level=level if is_debug else max(level, logging.WARNING), handlers=[handler], force=True)


def configure_logs(settings: Settings) -> None:
    """Our own words at ``ATTENDANCE_LOG_LEVEL``."""
    structlog.configure(
        processors=[*_WHO_AND_WHEN, _renderer(settings)],
        wrapper_class=structlog.make_filtering_bound_logger(_level(settings)),
        logger_factory=_Printer,
    )


#: What each line begins with.
_WHO_AND_WHEN: list[structlog.typing.Processor] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def _renderer(settings: Settings) -> structlog.typing.Processor:
    if settings.log_format == "json":
        return structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    return structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "logger", "event"])


def _in_one_line(_: Any, __: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """An error without its traceback."""
    error = entry.pop("exc_info", None)
    entry.pop("stack_info", None)
    if isinstance(error, tuple):
        error = error[1]
    return {**entry, "error": repr(error)} if error else entry


def _level(settings: Settings) -> int:
    return logging.getLevelNamesMapping()[settings.log_level]
