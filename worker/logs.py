"""Logs: one line an event on stderr, in logfmt."""

import logging
import sys

import structlog

from worker.settings import Settings


def configure_logs(settings: Settings) -> None:
    """One line an event on stderr. Faust and aiokafka only when something is wrong."""
    level = logging.getLevelNamesMapping()[settings.log_level]
    logging.basicConfig(level=max(level, logging.WARNING) if level > logging.DEBUG else level, stream=sys.stderr)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
