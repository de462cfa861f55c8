"""Attacks on an API process: each keeps going until its time is over, whatever the server does with its connections."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

from tests.support.raw import chunked, request

QUERY, EVENTS, STATUS = "/bookings/v2/attendance/query", "/v1/events", "/v1/status"
JSON, TE, LARGE = "Content-Type: application/json", "Transfer-Encoding: chunked", "Content-Length: 1048576"
BATCH = "Content-Type: application/cloudevents-batch+json"
MIB = 1024 * 1024
# JSON of a MiB that costs much to read: many names, many objects, many events without anything in them
NAMES = b"{" + b",".join(b'"%x":1' % n for n in range(110_000)) + b"}"
OBJECTS = b"[" + b"{}," * 340_000 + b"{}]"
BAD_EVENTS = b"[" + b",".join([b'{"specversion": "1.0", "type": "attendance.check_in"}'] * 1000) + b"]"


class Target(NamedTuple):
    """Whom to attack, with whose token, until when (time.monotonic)."""

    host: str
    port: int
    token: str
    until: float

    def is_over(self) -> bool:
        return time.monotonic() >= self.until


Attack = Callable[[Target], Awaitable[None]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def connected(target: Target) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection(target.host, target.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def held(target: Target, count: int, sent: bytes) -> None:
    """So many connections that send something once and then nothing; those that are closed are opened again."""

    async def hold() -> None:
        while not target.is_over():
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with connected(target) as (reader, writer):
                    writer.write(sent)
                    async with asyncio.timeout(max(0.1, target.until - time.monotonic())):
                        await reader.read()

    await asyncio.gather(*(hold() for _ in range(count)))


async def repeated(target: Target, count: int, sent: bytes, ahead: int = 1) -> None:
    """So many connections that each ask again as soon as they are answered."""

    async def ask() -> None:
        while not target.is_over():
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError, ValueError):
                async with connected(target) as (reader, writer), asyncio.timeout(max(0.1, target.until - time.monotonic())):
                    while not target.is_over():
                        writer.write(sent * ahead)
                        for _ in range(ahead):
                            head = await reader.readuntil(b"\r\n\r\n")
                            size = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                            await reader.readexactly(int(size))
                        await writer.drain()

    await asyncio.gather(*(ask() for _ in range(count)))


async def endless(target: Target, count: int, head: bytes, piece: bytes) -> None:
    """So many connections that send one request without an end, as fast as it is taken."""

    async def send() -> None:
        while not target.is_over():
            with contextlib.suppress(OSError):
                async with connected(target) as (reader, writer):
                    writer.write(head)
                    while not target.is_over() and not reader.at_eof():
                        writer.write(piece)
                        await writer.drain()

    await asyncio.gather(*(send() for _ in range(count)))


async def unread(target: Target, count: int) -> None:
    """So many connections that ask as fast as is taken, and read nothing."""
    asked = request("GET", "/openapi.json", token=target.token) * 50

    async def send() -> None:
        while not target.is_over():
            with contextlib.suppress(OSError, TimeoutError):
                async with connected(target) as (_, writer), asyncio.timeout(max(0.1, target.until - time.monotonic())):
                    writer.transport.pause_reading()  # type: ignore[attr-defined]
                    while not target.is_over():
                        writer.write(asked)
                        await writer.drain()

    await asyncio.gather(*(send() for _ in range(count)))


async def nothing(target: Target) -> None:
    await asyncio.sleep(target.until - time.monotonic())


def post(target: Target, *headers: str, body: bytes = b"", path: str = QUERY) -> bytes:
    kind = () if any(each.startswith("Content-Type") for each in headers) else (JSON,)
    return request("POST", path, *kind, *headers, body=body, token=target.token)


ATTACKS: dict[str, Attack] = {
    "nothing": nothing,
    "4,096 idle connections": lambda t: held(t, 4096, b""),
    "2,000 heads of 30 KB without an end": lambda t: held(t, 2000, b"GET / HTTP/1.1\r\nX: " + b"a" * 30_000),
    "600 slow bodies of one token": lambda t: held(t, 600, post(t, LARGE) + b"{"),
    "100 bodies of 1 MiB without the last byte": lambda t: held(t, 100, post(t, LARGE) + b" " * (MIB - 1)),
    "16 bodies in chunks of a byte": lambda t: endless(t, 16, post(t, TE), b"1\r\n \r\n" * 100),
    "16 bodies without an end": lambda t: endless(t, 16, post(t, TE), b"4000\r\n" + b" " * 0x4000 + b"\r\n"),
    "16 trailers without an end": lambda t: endless(t, 16, post(t, TE) + b"2\r\n{}\r\n0\r\n", b"X: " + b"y" * 1000 + b"\r\n"),
    "16 heads without an end": lambda t: endless(t, 16, b"GET / HTTP/1.1\r\n", b"X: " + b"y" * 1000),
    "200 clients that read nothing": lambda t: unread(t, 200),
    "32 on /metrics": lambda t: repeated(t, 32, request("GET", "/metrics")),
    "32 on /readyz": lambda t: repeated(t, 32, request("GET", "/readyz")),
    "32 on /healthz, each 20 ahead": lambda t: repeated(t, 32, request("GET", "/healthz"), 20),
    "32 strangers": lambda t: repeated(t, 32, request("GET", STATUS)),
    "8 gzip bombs": lambda t: repeated(t, 8, post(t, "Content-Encoding: gzip", body=gzip.compress(b"\0" * 50 * MIB))),
    "8 with 110,000 names": lambda t: repeated(t, 8, post(t, body=NAMES)),
    "8 with 340,000 objects": lambda t: repeated(t, 8, post(t, body=OBJECTS)),
    "8 with 1,000 bad events": lambda t: repeated(t, 8, post(t, BATCH, body=BAD_EVENTS, path=EVENTS)),
    "32 on bodies in one chunk each": lambda t: repeated(t, 32, post(t, TE, body=chunked(b"{}"))),
}


def attack(name: str, target: Target) -> None:
    """Runs an attack to its end, in a process of its own."""
    asyncio.run(_run(ATTACKS[name], target))


async def _run(what: Attack, target: Target) -> None:
    with contextlib.suppress(OSError):
        await what(target)
