"""Batches concurrent gets by id: those that arrive during a round trip are sent together in the next one."""

import asyncio
from functools import partial

from worker.read_model.partition_reader import IDS_PER_ROUND_TRIP, NamespaceView
from worker.read_model.resolver import NamespaceResolver


class GetBatcher:
    """Looks up packed pairs by id. Bound to the running event loop while gets are pending."""

    def __init__(self, resolver: NamespaceResolver) -> None:
        self._resolver = resolver
        self._pending: list[tuple[bytes, asyncio.Future[bytes | None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def packed(self, identity: bytes) -> bytes | None:
        """The packed pair with an id; None if there is none.

        Raises:
            ReaderError: see `worker.read_model.errors`.
            redis.RedisError: Redis is unavailable.
        """
        future: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self._pending.append((identity, future))
        if self._task is None:
            self._task = asyncio.create_task(self._ask())
        return await future

    async def _ask(self) -> None:
        batch: list[tuple[bytes, asyncio.Future[bytes | None]]] = []
        try:
            while self._pending:
                batch, self._pending = self._pending[:IDS_PER_ROUND_TRIP], self._pending[IDS_PER_ROUND_TRIP:]
                try:
                    ids = list(dict.fromkeys(identity for identity, _ in batch))
                    pairs, unread = await self._resolver.answer(partial(NamespaceView.find_pairs, ids=ids))
                except Exception as error:  # noqa: BLE001 - raised by each get
                    for _, future in batch:
                        _resolve(future, error)
                else:
                    for identity, future in batch:
                        _resolve(future, pairs.get(identity, unread))
        finally:
            self._task = None
            # no effect unless this task was cancelled: otherwise all are done
            for _, future in (*batch, *self._pending):
                future.cancel()


def _resolve(future: asyncio.Future[bytes | None], result: bytes | Exception | None) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
