"""The live feed of a process: one watcher of Redis, and values that are loaded once for all their subscribers."""

import asyncio
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from secrets import token_hex

import structlog
from redis.exceptions import RedisError

from worker.read_model.reader import AttendanceReader, ReaderError
from worker.redis.client import Client
from worker.tasks import cancel_all
from worker.web.live.shared_value import SharedValue
from worker.web.live.source import Changes, Source
from worker.web.live.subscription import FeedState, Subscription
from worker.web.live.watcher import ANSWERS_WITHIN, Watcher, describe

log = structlog.get_logger(__name__)

#: Sources of a subscriber, and of all subscribers of a process.
MAX_SOURCES, MAX_VALUES = 128, 5000
#: Values without a subscriber that are kept: one who comes and goes with ever other keys shuts nobody out by them.
MAX_UNUSED = 500
#: Values are kept, and Redis is watched, for this long after the last subscriber: one that comes back can resume.
LINGER_SECONDS = 30.0
#: Values that are loaded at the same time.
_CONCURRENT_LOADS = 16
#: How often unused values are looked for.
_DROP_SECONDS = 1.0
_BUG = "internal error; the server's log has the details"


class TooManySources(Exception):
    """The subscriber, or the process, would have more sources than it may; the message says which limit."""


class LiveFeed:
    """Delivers values while they change. Bound to the event loop of the first subscription.

    Args:
        linger_seconds: see `LINGER_SECONDS`.
    """

    def __init__(self, client: Client, reader: AttendanceReader, linger_seconds: float = LINGER_SECONDS) -> None:
        self._watcher = Watcher(client, reader, self._take_changes, self._take_outage)
        self._linger_seconds = linger_seconds
        self._id = token_hex(4)
        self._sequence = 0
        self._values: dict[Hashable, SharedValue] = {}
        self._waiting: set[SharedValue] = set()
        """Values to load again that someone looks at."""
        self._is_watched = False
        """Whether the watcher reads Redis, so that a value that is loaded now will be loaded again when it changes."""
        self._outage: str | None = None
        self._is_interrupted = False
        """Whether the log says so."""
        self._is_closed = False
        self._wake = asyncio.Event()
        self._in_flight = asyncio.Semaphore(_CONCURRENT_LOADS)
        self._loads: set[asyncio.Task[None]] = set()
        self._running: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def subscribe(self, sources: Sequence[Source], resume: str | None = None) -> AsyncIterator[Subscription]:
        """A context manager that opens a subscription.

        Args:
            sources: with equal keys they count once.
            resume: the id of the last delivery that the subscriber got. It then gets what changed since, if this process gave
                the id to a subscriber of the same sources; otherwise a snapshot.

        Raises:
            TooManySources: they are more than `MAX_SOURCES`, or the process has `MAX_VALUES`.
        """
        self.check(sources)
        values = [self._value(each) for each in {source.key: source for source in sources}.values()]
        subscription = Subscription(FeedState(self._id, lambda: self._sequence, lambda: self._is_closed), values, resume)
        for value in values:
            if not value.subscribers and value.is_dirty:
                value.is_current = False
            value.subscribers.add(subscription)
            if value.is_dirty:
                self._waiting.add(value)
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        self._wake.set()
        try:
            yield subscription
        finally:
            for value in values:
                value.subscribers.discard(subscription)
                if not value.subscribers:
                    value.unused_since = asyncio.get_running_loop().time()
                    self._waiting.discard(value)
            if len(self._values) > MAX_UNUSED:
                self._drop_unused()

    def check(self, sources: Sequence[Source]) -> None:
        """Raises TooManySources if `subscribe` would."""
        keys = {source.key for source in sources}
        if len(keys) > MAX_SOURCES:
            raise TooManySources(f"at most {MAX_SOURCES} keys in a call; these are {len(keys)}")
        if len(keys.union(key for key, value in self._values.items() if value.subscribers)) > MAX_VALUES:
            raise TooManySources(f"this process shows {MAX_VALUES} different keys already: retry later")

    def end(self) -> None:
        """Ends all subscriptions: `Subscription.next` raises FeedClosed."""
        self._is_closed = True
        for value in self._values.values():
            value.wake()

    async def close(self) -> None:
        """Ends all subscriptions, and stops watching."""
        self.end()
        await cancel_all([*self._loads, *([self._running] if self._running else [])])

    def _value(self, source: Source) -> SharedValue:
        value = self._values.get(source.key)
        if value is None:
            value = self._values[source.key] = SharedValue(source)
            value.error = self._outage
        return value

    async def _run(self) -> None:
        """Watches and loads, until there was no subscriber for a while."""
        watching = asyncio.create_task(self._watch())
        loop = asyncio.get_running_loop()
        drop_at = 0.0
        try:
            while self._values:
                self._start_loads()
                self._wake.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause()):
                        await self._wake.wait()
                if loop.time() >= drop_at:
                    drop_at = loop.time() + _DROP_SECONDS
                    self._drop_unused()
        finally:
            self._running, self._is_watched, self._outage = None, False, None
            await cancel_all([watching])

    async def _watch(self) -> None:
        while True:
            try:
                await self._watcher.run()
            except Exception as error:
                log.error("live feed failed", error=repr(error), exc_info=True)
                self._take_outage(_BUG)
                await asyncio.sleep(_DROP_SECONDS)

    def _start_loads(self) -> None:
        if not self._is_watched:
            return
        now = asyncio.get_running_loop().time()
        for value in [each for each in self._waiting if each.next_load <= now and not each.is_loading]:
            value.is_loading = True
            load = asyncio.create_task(self._load(value))
            self._loads.add(load)
            load.add_done_callback(self._loads.discard)

    def _pause(self) -> float:
        """Seconds until the next value may be loaded, or unused ones are looked for."""
        if not self._is_watched:
            return _DROP_SECONDS
        now = asyncio.get_running_loop().time()
        pauses = (each.next_load - now for each in self._waiting if not each.is_loading)
        return max(0.001, min(pauses, default=_DROP_SECONDS))

    async def _load(self, value: SharedValue) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with self._in_flight:
                value.is_dirty = False
                self._waiting.discard(value)
                value.next_load = loop.time() + value.source.interval
                try:
                    async with asyncio.timeout(ANSWERS_WITHIN):
                        loaded = await value.source.load()
                except (ReaderError, RedisError, OSError) as error:
                    self._fail(value, describe(error))
                except Exception as error:
                    log.error("live feed failed", key=repr(value.source.key)[:200], error=repr(error), exc_info=True)
                    self._fail(value, _BUG)
                else:
                    was_interrupted = value.error is not None or not value.is_current
                    if value.loaded(loaded, self._sequence + 1):
                        self._sequence += 1
                        value.wake()
                    elif was_interrupted:
                        value.wake()
                    if self._is_interrupted:
                        self._log_interruption()
        finally:
            value.is_loading = False
            if value.is_dirty and value.subscribers:
                self._waiting.add(value)
            self._wake.set()

    def _fail(self, value: SharedValue, reason: str) -> None:
        if value.failed(reason, asyncio.get_running_loop().time()):
            value.wake()
            self._log_interruption()

    def _take_changes(self, changes: Changes) -> None:
        self._is_watched, self._outage = True, None
        is_all = changes.sessions is None and len(changes.partitions) == changes.partition_count
        for value in self._values.values():
            if is_all or value.source.is_affected(changes):
                value.affect()
                if value.subscribers:
                    self._waiting.add(value)
        self._wake.set()

    def _take_outage(self, reason: str) -> None:
        self._is_watched, self._outage = False, reason
        for value in self._values.values():
            if value.interrupt(reason):
                value.wake()
            if value.subscribers:
                self._waiting.add(value)
        self._log_interruption()

    def _log_interruption(self) -> None:
        """One line when values cannot be read any more, and one when all of them can be again."""
        reason = next((each.error for each in self._values.values() if each.subscribers and each.error), None)
        if reason is not None and not self._is_interrupted:
            log.warning("live feed interrupted", reason=reason)
        elif reason is None and self._is_interrupted:
            log.info("live feed continues")
        self._is_interrupted = reason is not None

    def _drop_unused(self) -> None:
        """Forgets values that nobody has looked at for long, and of too many those that have been unused the longest."""
        now = asyncio.get_running_loop().time()
        unused = sorted((each for each in self._values.values() if not each.subscribers), key=lambda each: each.unused_since)
        for number, value in enumerate(unused, start=1):
            if len(unused) - number >= MAX_UNUSED or now - value.unused_since >= self._linger_seconds:
                del self._values[value.source.key]
