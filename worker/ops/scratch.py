"""A temporary folder that does not stay for ever when its process is killed: the next one removes it.

The kernel releases the lock of a folder when its process ends, also by SIGKILL.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, gettempdir
from time import time

#: A folder that is younger may have a process that has not locked it yet, seconds.
_YOUNG_SECONDS = 60.0


@contextmanager
def scratch_folder(prefix: str) -> Iterator[Path]:
    """A temporary folder whose name begins so. Removes those that killed processes have left behind."""
    for left in Path(gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):
            if time() - left.stat().st_mtime > _YOUNG_SECONDS:
                with _locked(left):
                    rmtree(left)
    with TemporaryDirectory(prefix=prefix) as name, _locked(Path(name)):
        yield Path(name)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(number)
