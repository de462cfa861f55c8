"""A TCP proxy between Kafka clients and one broker that can hold back the answers to one kind of request.

Clients find their brokers by what these advertise, so the broker needs a listener that advertises the proxy
(`KafkaNode.advertise`). It reads no more of the protocol than the frames, a request's key and the correlation ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
import time
from asyncio import StreamReader, StreamWriter
from types import TracebackType
from typing import Self

from .errors import ServiceStartFailed
from .ports import LOOPBACK, ReservedPort

OFFSET_FETCH = 9
_START_TIMEOUT_S = 5.0
_LIMIT = 4 * 1024 * 1024


class KafkaProxy:
    """Listens on a port of its own, in a thread of its own, and passes everything on to `target` (a port of this machine).

    `delay` seconds, which may be changed at any time, pass before an answer to a request of `api_key` goes on; what
    follows on the same connection waits behind it, as Kafka's protocol asks.
    """

    def __init__(self, target: int = 0, api_key: int = OFFSET_FETCH) -> None:
        self.target = target
        self.delay = 0.0
        self.delayed = 0
        """How many answers were held back."""
        self.released = False
        """Whether what is held back goes on at once."""
        self._api_key = api_key
        self._port = ReservedPort()
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="kafka-proxy", daemon=True)
        self._stop = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def url(self) -> str:
        """`kafka://127.0.0.1:PORT`."""
        return f"kafka://{self._port.address}"

    def start(self) -> None:
        """Raises ServiceStartFailed when it does not listen within 5 s."""
        self._thread.start()
        if not self._up.wait(_START_TIMEOUT_S):
            raise ServiceStartFailed("the proxy does not listen")

    def close(self) -> None:
        """Ends every connection and the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._port.release()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _serve(self) -> None:
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._listen())

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._accept, LOOPBACK, self.port, limit=_LIMIT)
        self._up.set()
        await self._stop.wait()
        server.close()
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _accept(self, client: StreamReader, to_client: StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            broker, to_broker = await asyncio.open_connection(LOOPBACK, self.target, limit=_LIMIT)
            with contextlib.closing(to_broker):
                held: set[int] = set()
                ways = [
                    asyncio.create_task(self._requests(client, to_broker, held)),
                    asyncio.create_task(self._answers(broker, to_client, held)),
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # the broker is away, or the proxy ends: the client sees its connection close
        finally:
            to_client.close()
            self._connections.discard(task)

    async def _requests(self, client: StreamReader, to_broker: StreamWriter, held: set[int]) -> None:
        while True:
            frame = await _frame(client)
            key, _version, correlation = struct.unpack_from(">hhi", frame, 4)
            if key == self._api_key:
                held.add(correlation)
            to_broker.write(frame)
            await to_broker.drain()

    async def _answers(self, broker: StreamReader, to_client: StreamWriter, held: set[int]) -> None:
        while True:
            frame = await _frame(broker)
            (correlation,) = struct.unpack_from(">i", frame, 4)
            if correlation in held:
                held.discard(correlation)
                if self.delay:
                    self.delayed += 1
                    end = time.monotonic() + self.delay
                    while not self.released and (left := end - time.monotonic()) > 0:  # noqa: ASYNC110 - set by another thread
                        await asyncio.sleep(min(left, 0.05))
            to_client.write(frame)
            await to_client.drain()


async def _frame(stream: StreamReader) -> bytes:
    """One request or answer with its length before it."""
    head = await stream.readexactly(4)
    return head + await stream.readexactly(*struct.unpack(">i", head))
