"""The services that the routes of an app use, built in one place."""

import asyncio
from typing import Any, NamedTuple

from fastapi import Request

from worker.read_model.reader import AttendanceReader
from worker.redis.client import Client, create_redis
from worker.settings import Settings
from worker.web.auth import TokenFile
from worker.web.commands import Commands
from worker.web.history_turns import HistoryTurns
from worker.web.http.bodies import Bodies
from worker.web.last_seen import LastSeen
from worker.web.live.feed import LiveFeed
from worker.web.live_topics import LiveTopics
from worker.web.metrics import Metrics
from worker.web.publisher import Publisher
from worker.web.shares import Shares
from worker.web.watermark_waiter import WatermarkWaiter

#: The memory for the bodies of all requests in flight.
_BODY_BYTES = 64 * 1024 * 1024


class Services(NamedTuple):
    """The services of one app; they connect after `open`."""

    settings: Settings
    client: Client
    reader: AttendanceReader
    bodies: Bodies
    topics: LiveTopics
    publisher: Publisher
    waiter: WatermarkWaiter
    commands: Commands
    tokens: TokenFile | None
    metrics: Metrics
    #: requests in flight, and bytes of their bodies, shared by the holders of tokens
    slots: Shares
    body_bytes: Shares
    #: live streams, shared the same way
    streams: Shares
    #: the tasks of the requests in flight
    running: set["asyncio.Task[Any]"]
    #: those of them that are live streams
    streaming: set["asyncio.Task[Any]"]
    last_seen: LastSeen
    histories: HistoryTurns
    live: LiveFeed

    @classmethod
    def of(cls, settings: Settings) -> "Services":
        """Builds the services for these settings.

        Raises:
            TokensError: the token file is malformed.
        """
        client = create_redis(settings)
        reader = AttendanceReader(client, settings.redis_namespace)
        publisher, waiter = Publisher(settings), WatermarkWaiter(reader)
        topics = LiveTopics(settings, reader)
        commands = Commands(settings, reader, topics, publisher, waiter)
        tokens = None if settings.api_tokens is None else TokenFile(settings.api_tokens)
        last_seen = LastSeen(reader, settings.partitions)
        slots, body_bytes = Shares(settings.api_max_requests), Shares(max(_BODY_BYTES, 2 * settings.api_max_body))
        bodies = Bodies(settings, body_bytes)
        tasks = set[asyncio.Task[Any]](), set[asyncio.Task[Any]]()
        shared = slots, body_bytes, Shares(settings.api_max_streams), *tasks, last_seen, HistoryTurns()
        return cls(
            settings,
            client,
            reader,
            bodies,
            topics,
            publisher,
            waiter,
            commands,
            tokens,
            Metrics(),
            *shared,
            LiveFeed(client, reader),
        )

    def open(self) -> None:
        """Begins to connect to Kafka; the first read connects to Redis."""
        self.publisher.open()

    async def close(self) -> None:
        """Ends live streams, stops waiting for watermarks, sends pending records and disconnects."""
        await self.live.close()
        await self.waiter.close()
        await self.publisher.close()
        await self.client.aclose()
        self.histories.close()


def services_of(request: Request) -> Services:
    """The services of the app that received the request."""
    services: Services = request.app.state.services
    return services
