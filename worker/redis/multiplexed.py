"""One connection to a server, shared by concurrent calls: their commands are pipelined, and replies arrive in that order.

redis-py opens the connection (address, TLS, password); its streams are not used after that. A query of four script calls
costs 300 µs of this process's time through redis-py's pool and streams, and 60 µs here: a caller does not wait for a connection
of its own, and a reply wakes only its caller.
"""

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from itertools import repeat
from typing import Any

from hiredis import PushNotification, Reader, pack_command
from redis.asyncio.connection import ConnectionPool
from redis.exceptions import ConnectionError as RedisConnectionError

_begin_transaction = re.compile(rb"\+OK\r\n((?:\+QUEUED\r\n)+)").match
_INCOMPLETE = object()


class Multiplexed:
    """Runs read-only commands on a server; bound to the event loop of the first call.

    Args:
        pool: provides the connection, and closes it together with its other connections.
        answer_timeout: seconds after which a server that does not answer is considered unavailable.
    """

    def __init__(self, pool: ConnectionPool, answer_timeout: float) -> None:
        self._pool = pool
        self._answer_timeout = answer_timeout
        self._connection: Connection | None = None
        self._open_lock = asyncio.Lock()

    async def ask(self, commands: Sequence[Sequence[Any]]) -> list[Any]:
        """The answers to the commands, in one round trip; errors are answers.

        Args:
            commands: such that a repeat changes nothing, because they are sent twice if the connection was lost.

        Raises:
            redis.ConnectionError: the server is unavailable.
            TimeoutError: it does not answer.
        """
        return await self.ask_packed(b"".join(map(pack, commands)), len(commands)) if commands else []

    async def ask_packed(self, packed: bytes, count: int) -> list[Any]:
        """As `ask`, of ``count`` commands that are packed by `pack`."""
        connection = None
        try:
            async with asyncio.timeout(self._answer_timeout):
                connection = await self._open()
                try:
                    return await connection.ask(packed, count)
                except RedisConnectionError:  # an idle connection may have been closed by the server
                    connection = await self._open()
                    return await connection.ask(packed, count)
        except TimeoutError:
            if connection is not None:
                connection.close()
            raise

    async def _open(self) -> "Connection":
        async with self._open_lock:
            if self._connection is None or self._connection.is_closed:
                if self._connection is not None:
                    closed, self._connection = self._connection.redis_connection, None
                    await closed.disconnect(nowait=True)
                    await self._pool.release(closed)
                self._connection = Connection(await self._pool.get_connection())  # type: ignore[no-untyped-call]
            return self._connection


class Connection(asyncio.Protocol):
    """Takes over the transport of a connection that redis-py has opened.

    Args:
        connection: redis-py's connection; it closes the transport.
    """

    def __init__(self, connection: Any) -> None:
        self.redis_connection = connection
        self._pending: deque[tuple[asyncio.Future[list[Any]], int]] = deque()
        self._unsent: list[bytes] = []
        self._answers: list[Any] = []
        self._reader = Reader(replyError=connection._parser.parse_error, notEnoughData=_INCOMPLETE)  # noqa: SLF001
        self._loop = asyncio.get_running_loop()
        self._transport = connection._writer.transport  # noqa: SLF001 - tests/integration/test_multiplexed.py holds both names
        # redis-py's protocol; it must receive connection_lost
        self._original_protocol = self._transport.get_protocol()
        self._transport.set_protocol(self)

    @property
    def is_closed(self) -> bool:
        return bool(self._transport.is_closing())

    def ask(self, packed: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Sends ``count`` packed commands; the future gets their answers."""
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        if self.is_closed:
            future.set_exception(RedisConnectionError("the connection was closed"))
            return future
        self._pending.append((future, count))
        self._unsent.append(packed)
        if len(self._unsent) == 1:
            # what other tasks ask in this turn of the event loop leaves with it: a system call costs more than a command
            self._loop.call_soon(self._send)
        return future

    def _send(self) -> None:
        packed, self._unsent = self._unsent, []
        if not self.is_closed:
            self._transport.write(b"".join(packed))

    def close(self) -> None:
        """Closes the connection; pending calls fail."""
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._pending and not self._answers and not self._reader.has_data() and (begin := _begin_transaction(data)):
            # half of what a transaction is answered: cheaper than to parse each
            self._answers = [b"OK", *repeat(b"QUEUED", begin[1].count(b"+"))]
            data = data[begin.end() :]
        self._reader.feed(data)
        read_reply = self._reader.gets
        while self._pending:
            future, count = self._pending[0]
            while len(self._answers) < count:
                answer = read_reply()
                if answer is _INCOMPLETE:
                    return
                if type(answer) is not PushNotification:
                    self._answers.append(answer)
            self._pending.popleft()
            answers, self._answers = self._answers, []
            if not future.done():  # it is done if its caller was cancelled
                future.set_result(answers)

    def connection_lost(self, error: Exception | None) -> None:
        self._original_protocol.connection_lost(error)
        waiting, self._pending = self._pending, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(RedisConnectionError(f"the connection was lost ({error or 'closed by the server'})"))


def pack(words: Sequence[Any]) -> bytes:
    """A command as it is sent."""
    texts = tuple([word if type(word) is bytes or type(word) is str else str(word) for word in words])
    packed: bytes = pack_command(texts)  # type: ignore[arg-type]  # it takes any tuple
    return packed
