"""Errors of a history."""


class HistoryError(Exception):
    """An attendance cannot be explained; the message says why."""


class TooManyEvents(HistoryError):
    """It has more events than are explained."""
