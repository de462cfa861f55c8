"""Gets by id that are asked at the same time go in one round trip: who comes while one is under way goes with the next."""

import asyncio
from functools import partial

from worker.read_model.partition_reader import FEW_IDS, Live
from worker.read_model.resolver import Finder


class Gets:
    """Looks up packed pairs. Bound to the running loop while something is asked."""

    def __init__(self, finder: Finder) -> None:
        self._finder = finder
        self._waiting: list[tuple[bytes, asyncio.Future[bytes | None]]] = []
        self._asking: asyncio.Task[None] | None = None

    async def packed(self, identity: bytes) -> bytes | None:
        """The packed pair with an id, None where there is none.

        Raises:
            ReaderError: see `worker.read_model.partition_reader`.
            redis.RedisError: Redis is away.
        """
        waiter: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._waiting.append((identity, waiter))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        return await waiter

    async def _ask(self) -> None:
        asked: list[tuple[bytes, asyncio.Future[bytes | None]]] = []
        try:
            while self._waiting:
                asked, self._waiting = self._waiting[:FEW_IDS], self._waiting[FEW_IDS:]
                try:
                    ids = list(dict.fromkeys(identity for identity, _ in asked))
                    found, missed = await self._finder.answer(partial(Live.packed, ids=ids))
                except Exception as error:  # noqa: BLE001 - it is for those who asked
                    for _, waiter in asked:
                        _tell(waiter, error)
                else:
                    for identity, waiter in asked:
                        _tell(waiter, found.get(identity, missed))
        finally:
            self._asking = None
            # only where this task was ended
            for _, waiter in (*asked, *self._waiting):
                waiter.cancel()


def _tell(waiter: asyncio.Future[bytes | None], found: bytes | Exception | None) -> None:
    if waiter.done():
        return
    if isinstance(found, Exception):
        waiter.set_exception(found)
    else:
        waiter.set_result(found)
