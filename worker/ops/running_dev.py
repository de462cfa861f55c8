"""How other commands find a running `attendance dev`: a file in its temporary folder, which it keeps locked.

The kernel releases the lock when the process ends, also by SIGKILL. A file that a killed `dev` left behind is therefore
ignored, even where another process has got its pid since.
"""

import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from worker.settings import ENV_PREFIX, Settings, shown

FOLDER_PREFIX = "attendance-dev-"
_FILE = "dev.json"
ADDRESSES = ("broker", "redis")
#: What another command needs to work with the same topics, read models and tokens.
_SHARED = (
    *ADDRESSES,
    "topic_prefix",
    "namespace",
    "partitions",
    "store",
    "clock_tolerance",
    "conflict_window",
    "max_event_age",
    "session_timeout",
    "api_tokens",
)


class RunningDev(NamedTuple):
    """A `dev` that runs now."""

    pid: int
    settings: dict[str, str]
    """Values by the name of the setting, passwords masked."""
    given: list[str]
    """Names of the addresses that it was given: what they contain beyond the masked value is unknown here."""


@contextmanager
def announced(settings: Settings, folder: Path, started: set[str]) -> Iterator[None]:
    """Lets other commands find this process while the context lasts.

    Args:
        settings: what this process runs with.
        folder: its temporary folder.
        started: ``broker``, ``redis`` or both: the services that it started itself.
    """
    given = [name for name in ADDRESSES if name not in started]
    configured = (name for name in _SHARED if name in settings.model_fields_set)
    values = {name: shown(settings)[ENV_PREFIX + name.upper()] for name in configured}
    if settings.api_tokens is not None:
        values["api_tokens"] = str(settings.api_tokens.absolute())
    new, path = folder / f"{_FILE}.new", folder / _FILE
    with new.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        json.dump(RunningDev(os.getpid(), values, given)._asdict(), file)
        file.flush()
        # under its name it is complete and locked
        new.rename(path)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def running_devs() -> list[RunningDev]:
    """Those of this user on this machine, the newest first."""
    found = []
    for path in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*/{_FILE}"):
        # of another version: its fields may differ
        with suppress(OSError, ValueError, TypeError), open(path, opener=_open) as file:
            state = os.fstat(file.fileno())
            # in the folder that all users share, another user could offer a file of his own
            if stat.S_ISREG(state.st_mode) and state.st_uid == os.geteuid() and _is_locked(file.fileno()):
                found.append((state.st_mtime_ns, RunningDev(**json.load(file))))
    return [dev for _, dev in sorted(found, reverse=True)]


def _open(path: str, flags: int) -> int:
    """Opens a file that another user may have put there: no pipe is waited for, no link followed."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW)


def _is_locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False
