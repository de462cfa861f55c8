"""Connections that one caller at a time has for itself, for commands that depend on what the connection did before."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio.connection import ConnectionPool

from worker.redis.multiplexed import Connection


class Exclusive:
    """A connection to a server. A call is never sent twice: a new connection does not watch what the old one watched."""

    def __init__(self, connection: Connection, answer_timeout: float) -> None:
        self._connection = connection
        self._answer_timeout = answer_timeout

    @property
    def is_closed(self) -> bool:
        return self._connection.is_closed

    async def ask(self, packed: bytes, count: int) -> list[Any]:
        """The answers to ``count`` packed commands; errors are answers.

        Raises:
            redis.ConnectionError: the connection was lost; whether the commands were run is not known.
            TimeoutError: the server does not answer.
        """
        async with asyncio.timeout(self._answer_timeout):
            return await self._connection.ask(packed, count)


class ExclusiveConnections:
    """The connections of a client that are lent one by one. The pool closes them together with its other connections."""

    def __init__(self, pool: ConnectionPool, answer_timeout: float) -> None:
        self._pool = pool
        self._answer_timeout = answer_timeout
        self._free: list[Connection] = []

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Exclusive]:
        """A connection; after an error it is closed, since answers may be under way.

        Raises:
            redis.ConnectionError: the server is unavailable.
            TimeoutError: it does not answer.
        """
        while self._free and self._free[-1].is_closed:
            await self._release(self._free.pop())
        if self._free:
            connection = self._free.pop()
        else:
            async with asyncio.timeout(self._answer_timeout):
                connection = Connection(await self._pool.get_connection())  # type: ignore[no-untyped-call]
        try:
            yield Exclusive(connection, self._answer_timeout)
        except BaseException:
            connection.close()
            await self._release(connection)
            raise
        self._free.append(connection)

    async def _release(self, connection: Connection) -> None:
        await connection.redis_connection.disconnect(nowait=True)
        await self._pool.release(connection.redis_connection)
