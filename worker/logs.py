"""Logs: one line an event on stderr, in logfmt."""

import logging
import sys
import time

import structlog

from worker.settings import Settings

_CLIENT_SECONDS = 30.0
_FORMAT = "level=%(levelname)s logger=%(name)s event=%(message)r"


class _OneLine(logging.Formatter):
    """An error is one line, without its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        error = record.exc_info[1] if record.exc_info else None
        record.exc_info = record.exc_text = record.stack_info = None
        return super().format(record) + (f" error={error!r}" if error is not None else "")


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
    told = logging.StreamHandler(sys.stderr)
    told.setFormatter(logging.Formatter(_FORMAT) if level <= logging.DEBUG else _OneLine(_FORMAT))
    told.addFilter(_NoLogin())
    if level > logging.DEBUG:
        told.addFilter(_Seldom())
    logging.basicConfig(
        level=max(level, logging.WARNING) if level > logging.DEBUG else level,
        handlers=[told],
        force=True,
    )


def configure_logs(settings: Settings) -> None:
    """Our own words at ``ATTENDANCE_LOG_LEVEL``."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_level(settings)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _level(settings: Settings) -> int:
    return logging.getLevelNamesMapping()[settings.log_level]
