"""Which namespace is live: questions are asked of it, and asked again where another has become the live one meanwhile."""

from asyncio import Semaphore
from collections.abc import Awaitable, Callable
from secrets import token_bytes
from time import monotonic
from typing import TypeVar

from schemas.query.signatures import KEY_BYTES, is_signed
from worker.read_model.keys import is_ours, live_key
from worker.read_model.partition_reader import TURNS, Generations, Live, NotServing, OtherLayout, Switched
from worker.redis.client import Client
from worker.redis.scripts import sound

_ATTEMPTS = 3
#: How long what names the live namespace is not looked at, where answers prove by themselves that it is.
_KNOWN_SECONDS = 10.0

_T = TypeVar("_T")


class Finder:
    """Knows which namespace is live.

    Args:
        base: ``ATTENDANCE_NAMESPACE``.
    """

    def __init__(self, client: Client, base: str) -> None:
        self._client = client
        self._base = base
        self._generations: Generations = {}
        self._turns = Semaphore(TURNS)
        self._known: Live | None = None
        self._known_until = 0.0

    async def answer(self, question: Callable[[Live], Awaitable[_T]]) -> _T:
        """What a question finds in one namespace; asked again where another has become the live one meanwhile."""
        for _ in range(_ATTEMPTS):
            # a flushed Redis has another key for cursors since, in a namespace of the same name
            live = self._known if self._known and monotonic() < self._known_until else await self._locate()
            try:
                found = await question(live)
            except Switched:
                self._known = None
                continue
            except NotServing:
                if await self._is_live(live):
                    raise
                continue
            if await self._is_live(live):
                return found
        raise Switched

    async def _is_live(self, live: Live) -> bool:
        """Whether the namespace that was read is the live one still; in a cluster no earlier answer can have said so."""
        if live.proves_itself:
            return True
        return (await self._locate()).namespace == live.namespace

    async def cursor_key(self, signed: str) -> bytes:
        """The key with which readers sign cursors; looked up again where this text was not signed with the one known."""
        live = self._known or await self._locate()
        return live.cursor_key if is_signed(signed, live.cursor_key) else (await self._locate()).cursor_key

    async def _locate(self) -> Live:
        """The live namespace of this moment."""
        look = "HMGET", live_key(self._base), "namespace", "partitions", "cursorKey"
        ((name, count, key),) = sound(await self._client.ask([look]))
        if name is None or count is None:
            raise NotServing("no namespace is live in Redis yet: start a worker, or wait for it")
        namespace = name.decode()
        if not is_ours(self._base, namespace):
            raise OtherLayout(f"namespace {namespace} has another layout: run this command in the version of the workers")
        if key is None:
            key = await self._make_cursor_key()
        self._known = Live(self._client, self._base, namespace, int(count), key, self._generations, self._turns)
        self._known_until = monotonic() + _KNOWN_SECONDS
        return self._known

    async def _make_cursor_key(self) -> bytes | None:
        """As a worker makes it when it starts; None where this user may only read."""
        place = live_key(self._base), "cursorKey"
        # said twice it comes to the same, so it may go where else only reading does
        _, key = await self._client.ask([("HSETNX", *place, token_bytes(KEY_BYTES)), ("HGET", *place)])
        return key if isinstance(key, bytes) else None
