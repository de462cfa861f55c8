"""Finds the live namespace, runs queries on it, and retries them if another namespace became live meanwhile."""

from asyncio import Semaphore
from collections.abc import Awaitable, Callable
from secrets import token_bytes
from time import monotonic
from typing import TypeVar

from schemas.query.signatures import KEY_BYTES, is_signed
from worker.read_model.builds import parse_live
from worker.read_model.errors import NotServing, OtherLayout, Switched
from worker.read_model.keys import LIVE_FIELDS, is_ours, live_key
from worker.read_model.partition_reader import MAX_ROUND_TRIPS, KeyGenerations, NamespaceView
from worker.redis.client import Client
from worker.redis.scripts import raise_first_error

_ATTEMPTS = 3
#: How long the live namespace is cached if every answer proves that it is still live; see `NamespaceView.checks_namespace`.
_CACHE_SECONDS = 10.0

_T = TypeVar("_T")


class NamespaceResolver:
    """Finds the live namespace and caches it.

    Args:
        base: ``ATTENDANCE_NAMESPACE``.
    """

    def __init__(self, client: Client, base: str) -> None:
        self._client = client
        self._base = base
        self._key_generations: KeyGenerations = {}
        self._round_trips = Semaphore(MAX_ROUND_TRIPS)
        self._cached: NamespaceView | None = None
        self._cached_until = 0.0

    async def answer(self, query: Callable[[NamespaceView], Awaitable[_T]]) -> _T:
        """Runs a query on the live namespace; retries it if another namespace became live meanwhile."""
        for _ in range(_ATTEMPTS):
            # the cache expires because a flushed Redis gets a new cursor key under the same namespace name
            view = self._cached if self._cached and monotonic() < self._cached_until else await self._locate()
            try:
                result = await query(view)
            except Switched:
                self._cached = None
                continue
            except NotServing:
                if await self._is_live(view):
                    raise
                continue
            if await self._is_live(view):
                return result
        raise Switched

    async def _is_live(self, view: NamespaceView) -> bool:
        """Whether the namespace is still live. In a cluster only a read after the query can prove that."""
        if view.checks_namespace:
            return True
        return (await self._locate()).namespace == view.namespace

    async def cursor_key(self, signed: str) -> bytes:
        """The key that signs cursors; read again if ``signed`` was not signed with the cached one."""
        view = self._cached or await self._locate()
        return view.cursor_key if is_signed(signed, view.cursor_key) else (await self._locate()).cursor_key

    async def _locate(self) -> NamespaceView:
        """Reads the live namespace from Redis."""
        command = "HMGET", live_key(self._base), *LIVE_FIELDS, "cursorKey"
        ((*values, key),) = raise_first_error(await self._client.ask([command]))
        live = parse_live(values)
        if live is None:
            raise NotServing("no namespace is live in Redis yet: start a worker, or wait for it")
        if not is_ours(self._base, live.name):
            raise OtherLayout(f"namespace {live.name} has the layout of another version: use the version of the workers")
        if key is None:
            key = await self._make_cursor_key()
        self._cached = NamespaceView(
            self._client,
            self._base,
            live.name,
            live.partitions,
            key,
            self._key_generations,
            self._round_trips,
            live.tables,
            live.topic_prefix,
        )
        self._cached_until = monotonic() + _CACHE_SECONDS
        return self._cached

    async def _make_cursor_key(self) -> bytes | None:
        """Creates the cursor key, as a worker does when it starts; None if this Redis user may only read."""
        field = live_key(self._base), "cursorKey"
        # `ask` may send commands twice; HSETNX is idempotent
        _, key = await self._client.ask([("HSETNX", *field, token_bytes(KEY_BYTES)), ("HGET", *field)])
        return key if isinstance(key, bytes) else None
