"""What the calls of one app work with, put together in one place."""

import asyncio
from typing import Any, NamedTuple

from fastapi import Request

from worker.read_model.reader import AttendanceReader
from worker.redis.client import Client, create_redis
from worker.settings import Settings
from worker.web.auth import TokenFile
from worker.web.commands import Changes
from worker.web.http.bodies import Bodies
from worker.web.last_seen import LastSeen
from worker.web.metrics import Meters
from worker.web.publisher import Publisher
from worker.web.shares import Shares
from worker.web.watermark_waiter import Marks

#: What the bodies of all requests under way may hold together.
_BODY_BYTES = 64 * 1024 * 1024


class Parts(NamedTuple):
    """Nothing of it is connected before `open`."""

    settings: Settings
    client: Client
    reader: AttendanceReader
    bodies: Bodies
    publisher: Publisher
    marks: Marks
    changes: Changes
    tokens: TokenFile | None
    meters: Meters
    #: requests that are worked on at once, and bytes of their bodies, shared by the holders of tokens
    slots: Shares
    body_bytes: Shares
    #: the task of each request under way
    running: set["asyncio.Task[Any]"]
    last_seen: LastSeen

    @classmethod
    def of(cls, settings: Settings) -> "Parts":
        """The parts for these settings.

        Raises:
            TokensError: the tokens' file is missing or malformed.
        """
        client = create_redis(settings)
        reader = AttendanceReader(client, settings.redis_namespace)
        publisher, marks = Publisher(settings), Marks(reader)
        changes = Changes(settings, reader, publisher, marks)
        tokens = None if settings.api_tokens is None else TokenFile(settings.api_tokens)
        last_seen = LastSeen(reader, settings.partitions)
        slots, body_bytes = Shares(settings.api_max_requests), Shares(max(_BODY_BYTES, 2 * settings.api_max_body))
        bodies = Bodies(settings, body_bytes)
        shared = slots, body_bytes, set[asyncio.Task[Any]](), last_seen
        return cls(settings, client, reader, bodies, publisher, marks, changes, tokens, Meters(), *shared)

    def open(self) -> None:
        """Begins to connect to Kafka; Redis is connected to by the first question."""
        self.publisher.open()

    async def close(self) -> None:
        """Ends what is under way and disconnects."""
        await self.marks.close()
        await self.publisher.close()
        await self.client.aclose()


def parts_of(request: Request) -> Parts:
    """The parts of the app that got the request."""
    parts: Parts = request.app.state.parts
    return parts
