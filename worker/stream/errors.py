"""Why a worker ends by itself.

::

    StreamError
    ├── SettingsConflict   a retry does not help: the operator sets what the tables were made with
    └── WorkerCrashed      starting it again is safe and loses nothing
"""


class StreamError(Exception):
    """A worker cannot go on; the message says what to do."""


class SettingsConflict(StreamError):
    """The tables or the read models were made with other settings that shape results."""


class WorkerCrashed(StreamError):
    """Something that cannot be waited out."""
