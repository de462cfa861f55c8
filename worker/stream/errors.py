"""Errors that end a worker.

::

    StreamError
    ├── SettingsConflict   a retry does not help: the operator sets what the tables were made with
    │   └── TablesDropped  other tables are live: a worker that starts now uses them
    └── WorkerCrashed      starting it again is safe and loses nothing
"""


class StreamError(Exception):
    """The worker cannot continue. The message tells the operator what to do."""


class SettingsConflict(StreamError):
    """The tables or the read models were made with other settings that shape results."""


class TablesDropped(SettingsConflict):
    """The read models of these tables were dropped: others are live."""


class WorkerCrashed(StreamError):
    """An error that waiting does not cure."""
