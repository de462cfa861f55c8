"""The topics to publish to: those of the live namespace, which a rebuild may have moved to others."""

import asyncio
from time import monotonic

from redis.exceptions import RedisError

from worker.read_model.reader import AttendanceReader, ReaderError
from worker.settings import Settings
from worker.topics import TopicNames

_ANSWER_SECONDS = 0.25
#: Without an answer, those known last are used, and Redis is asked again after so long.
_ASK_AGAIN_SECONDS = 2.0


class LiveTopics:
    """The topics of the live namespace.

    Args:
        settings: of this process; their topics are used until Redis has answered.
        reader: asks Redis.
    """

    def __init__(self, settings: Settings, reader: AttendanceReader) -> None:
        self._own = self._prefix = settings.topic_prefix
        self._reader = reader
        self._ask_after = 0.0

    async def names(self) -> TopicNames:
        """Their names, also while Redis is unavailable."""
        if monotonic() >= self._ask_after:
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    self._prefix = await self._reader.topic_prefix() or self._own
            except (ReaderError, RedisError, TimeoutError, OSError):
                self._ask_after = monotonic() + _ASK_AGAIN_SECONDS
        return TopicNames.of(self._prefix)
