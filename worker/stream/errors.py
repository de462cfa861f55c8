"""Errors that end a worker.

::

    StreamError
    ├── SettingsConflict   a retry does not help: the operator sets what the tables were made with
    └── WorkerCrashed      starting it again is safe and loses nothing
"""


class StreamError(Exception):
    """The worker cannot continue. The message tells the operator what to do."""


class SettingsConflict(StreamError):
    """The tables or the read models were made with other settings that shape results."""


class WorkerCrashed(StreamError):
    """An error that waiting does not cure."""
