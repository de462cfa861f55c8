"""Batches concurrent gets by id."""

from collections.abc import Sequence
from functools import partial

from worker.read_model.partition_reader import IDS_PER_ROUND_TRIP, NamespaceView
from worker.read_model.query.batcher import Batcher
from worker.read_model.resolver import NamespaceResolver


class GetBatcher:
    """Looks up packed pairs by id. Bound to the running event loop while gets are pending."""

    def __init__(self, resolver: NamespaceResolver) -> None:
        self._resolver = resolver
        self._batcher: Batcher[bytes, bytes | None] = Batcher(self._find, IDS_PER_ROUND_TRIP)

    async def packed(self, identity: bytes) -> bytes | None:
        """The packed pair with an id; None if there is none.

        Raises:
            ReaderError: see `worker.read_model.errors`.
            redis.RedisError: Redis is unavailable.
        """
        return await self._batcher.ask(identity)

    async def _find(self, ids: Sequence[bytes]) -> dict[bytes, bytes | Exception | None]:
        pairs, unread = await self._resolver.answer(partial(NamespaceView.find_pairs, ids=ids))
        return {identity: pairs.get(identity, unread) for identity in ids}
