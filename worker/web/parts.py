"""What the calls of one app work with, put together in one place."""

from typing import NamedTuple

from fastapi import Request

from worker.read_model.client import Client, create_redis
from worker.read_model.reader import AttendanceReader
from worker.settings import Settings
from worker.web.bodies import Bodies
from worker.web.changes import Changes
from worker.web.last_seen import LastSeen
from worker.web.marks import Marks
from worker.web.meters import Meters
from worker.web.producer import Publisher
from worker.web.tokens import TokenFile


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
        return cls(settings, client, reader, Bodies(settings), publisher, marks, changes, tokens, Meters(), last_seen)

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
