"""One connection to a server on which many questions are under way, each answered in its turn.

redis-py opens it (addresses, TLS and passwords are its matter) and then has no part in it: over its pools and streams a
question of four calls costs this process 300 microseconds, here 60, as nobody waits for a connection of their own and an
answer wakes only who asked.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from hiredis import PushNotification, Reader, pack_command
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as Away

_MORE = object()


class Multiplexed:
    """Asks a server; bound to the loop that asks first.

    Args:
        pool: gives the connection, and closes it with its others.
        patience: seconds after which a server that does not answer counts as away.
    """

    def __init__(self, pool: ConnectionPool, patience: float) -> None:
        self._pool = pool
        self._patience = patience
        self._line: _Line | None = None
        self._opening = asyncio.Lock()

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The answer to each command, errors among them; one round trip.

        Args:
            commands: they must only read, since they are sent again where the connection was lost.

        Raises:
            redis.ConnectionError: the server is away.
            TimeoutError: it does not answer.
        """
        if not commands:
            return []
        packed = b"".join(map(_pack, commands))
        line = None
        try:
            async with asyncio.timeout(self._patience):
                line = await self._open()
                try:
                    return await line.ask(packed, len(commands))
                except Away:  # an idle one may have ended long ago
                    line = await self._open()
                    return await line.ask(packed, len(commands))
        except TimeoutError:
            if line is not None:
                line.close()
            raise

    async def _open(self) -> "_Line":
        async with self._opening:
            if self._line is None or self._line.is_closed:
                if self._line is not None:
                    ended, self._line = self._line.connection, None
                    await ended.disconnect(nowait=True)
                    await self._pool.release(ended)
                self._line = _Line(await self._pool.get_connection())  # type: ignore[no-untyped-call]
            return self._line


class _Line(asyncio.Protocol):
    """A connection that redis-py has opened, taken over.

    Args:
        connection: of redis-py; it closes its transport in the end.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self._waiting: deque[tuple[asyncio.Future[list[Any]], int]] = deque()
        self._answers: list[Any] = []
        self._reader = Reader(replyError=connection._parser.parse_error, notEnoughData=_MORE)  # noqa: SLF001
        self._loop = asyncio.get_running_loop()
        self._transport = connection._writer.transport  # noqa: SLF001 - tests/integration/test_multiplexed.py holds both names
        # it waits to be told of the end
        self._before = self._transport.get_protocol()
        self._transport.set_protocol(self)

    @property
    def is_closed(self) -> bool:
        return bool(self._transport.is_closing())

    def ask(self, packed: bytes, many: int) -> asyncio.Future[list[Any]]:
        """The answers to so many commands; they are awaited in the order of the questions."""
        answered: asyncio.Future[list[Any]] = self._loop.create_future()
        if self.is_closed:
            answered.set_exception(Away("the connection was closed"))
        else:
            self._waiting.append((answered, many))
            self._transport.write(packed)
        return answered

    def close(self) -> None:
        """Ends the connection, and all that is asked on it."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        next_ = self._reader.gets
        while self._waiting:
            answered, many = self._waiting[0]
            while len(self._answers) < many:
                answer = next_()
                if answer is _MORE:
                    return
                if type(answer) is not PushNotification:
                    self._answers.append(answer)
            self._waiting.popleft()
            answers, self._answers = self._answers, []
            if not answered.done():  # else its caller gave it up
                answered.set_result(answers)

    def connection_lost(self, error: Exception | None) -> None:
        self._before.connection_lost(error)
        waiting, self._waiting = self._waiting, deque()
        for answered, _ in waiting:
            if not answered.done():
                answered.set_exception(Away(f"the connection was lost ({error or 'it ended'})"))


def _pack(words: Sequence[Any]) -> bytes:
    known = tuple([word if type(word) is bytes or type(word) is str else str(word) for word in words])
    packed: bytes = pack_command(known)  # type: ignore[arg-type]  # it takes any tuple
    return packed
