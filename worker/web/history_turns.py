"""Who may read a history now: each one reads a partition of Kafka, and other requests of the process wait for parts of it."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from hashlib import sha256
from pathlib import Path

from worker.web.metrics import FOLDER

_FILE = "histories.lock"


class Busy(Exception):
    """Another history is being read."""


class HistoryTurns:
    """One history at a time of each token in all processes of an `attendance api`, and one at a time in each process.

    The tokens of a process wait for each other in the order in which they came, so that none is kept out by another.

    The processes share a file of which each token has a byte to lock (by `fcntl`, not in Redis: the API may have the right to
    read only). The system releases the locks of a process that dies. A single process needs no file.
    """

    def __init__(self) -> None:
        folder = os.environ.get(FOLDER)
        # one descriptor for all locks: a process that closes any descriptor of a file loses its locks on it
        self._file = None if folder is None else os.open(Path(folder) / _FILE, os.O_RDWR | os.O_CREAT, 0o600)
        self._holders = set[str]()
        self._reading = asyncio.Lock()

    @asynccontextmanager
    async def take(self, holder: str, timeout: float) -> AsyncIterator[None]:
        """Holds the turn of a token.

        Args:
            holder: the name of the token.
            timeout: how long to wait for the other tokens of this process, seconds.

        Raises:
            Busy: the token reads another history, or the other tokens take too long.
        """
        with self._only(holder):
            try:
                async with asyncio.timeout(timeout):
                    await self._reading.acquire()
            except TimeoutError:
                raise Busy from None
            try:
                yield
            finally:
                self._reading.release()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)

    @contextmanager
    def _only(self, holder: str) -> Iterator[None]:
        # a process may lock the same byte twice
        if holder in self._holders:
            raise Busy
        byte = int.from_bytes(sha256(holder.encode()).digest()[:7])
        if self._file is not None:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
            except (BlockingIOError, PermissionError):
                raise Busy from None
        self._holders.add(holder)
        try:
            yield
        finally:
            self._holders.discard(holder)
            if self._file is not None:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)
