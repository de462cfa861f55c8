"""A normal worker with small batches that ends at once, as by SIGKILL, at its n-th pass of a named point.

``python -m tests.support.dying_worker POINT TOPIC N``: TOPIC is events, bookings or any, and counts only the passes
in batches of that topic. Point ``never`` makes it a worker with small batches and nothing else.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from worker.cli import commands
from worker.engine import faust_consumer, table
from worker.read_model import write_batch, writer
from worker.stream import app, kafka_sink, partition

EXIT_CODE = 137
POLL_RECORDS = 30
CHUNK = 3

#: Here, what was stored of the topic's batches is told to nobody before the worker dies.
UNTOLD = "stored, and none before it told"
POINTS = (
    "before the changelog",
    "changelog sent, table unchanged",
    "between the two changelogs",
    UNTOLD,
    "before the messages",
    "half of the messages sent",
    "after the messages",
    "after the first chunk",
    "before the last chunk",
    "Redis written, no ack",
    "acknowledged, not committed",
)
Method = Callable[..., Awaitable[Any]]


class Death:
    """Which pass of which point is the last."""

    def __init__(self, point: str, topic: str, passes: int) -> None:
        self._point, self._topic, self._left = point, topic, passes
        self._batch: ContextVar[str] = ContextVar("batch", default="")
        self._stored: ContextVar[bool] = ContextVar("stored", default=False)

    def at(self, point: str, topic: str | None = None) -> None:
        """Ends the process where this is the pass."""
        topic = topic or self._batch.get()
        if point == self._point and topic and self._topic in ("any", topic):
            self._left -= 1
            if self._left <= 0:
                print(f"dies: {point}, in {topic}", flush=True)
                os._exit(EXIT_CODE)

    def install(self) -> None:
        """Wraps every point."""
        wrap(partition.Partition, "_fold", self._fold)
        wrap(partition.Partition, "_emit", self._emit)
        wrap(table.Table, "flush_groups", self._flush)
        wrap(kafka_sink, "send", self._send)
        wrap(writer.PartitionWriter, "apply", self._apply)
        acknowledge = faust_consumer.Consumer.ack

        def ack(consumer: Any, message: Any) -> bool:
            done = acknowledge(consumer, message)
            self.at("acknowledged, not committed", message.tp.topic.rpartition(".")[2])
            return done

        faust_consumer.Consumer.ack = ack  # type: ignore[method-assign]

    async def _fold(self, fold: Method, owner: Any, delivered: Any) -> None:
        self._batch.set(delivered.message.topic.rpartition(".")[2])
        self._stored.set(False)
        await fold(owner, delivered)
        self.at(UNTOLD)
        self._batch.set("")

    async def _emit(self, emit: Method, owner: Any, folded: Any) -> None:
        self._batch.set(folded.delivered.message.topic.rpartition(".")[2])
        if self._point == UNTOLD and self._topic in ("any", self._batch.get()):
            await asyncio.Event().wait()
        await emit(owner, folded)
        self._batch.set("")

    async def _flush(self, flush: Method, held: Any, producer: Any, number: int, groups: Any) -> None:
        self.at("before the changelog")
        if self._stored.get():
            self.at("between the two changelogs")
        await flush(held, Appending(producer, lambda: self.at("changelog sent, table unchanged")), number, groups)
        self._stored.set(True)

    async def _send(self, send: Method, producer: Any, alerts: Any, outgoing: kafka_sink.Outgoing) -> None:
        self.at("before the messages")
        halves = [kafka_sink.Outgoing(some[0], some[1]) for some in zip(*map(_halves, outgoing), strict=True)]
        await send(producer, alerts, halves[0])
        if any(halves[0]) and any(halves[1]):
            self.at("half of the messages sent")
        await send(producer, alerts, halves[1])
        self.at("after the messages")

    async def _apply(self, apply: Method, owner: Any, write: Any) -> None:
        await apply(owner, Watched(write, self.at))
        self.at("Redis written, no ack")


class Appending:
    """A producer whose record batches are said to be there before the table hears of it."""

    def __init__(self, producer: Any, appended: Callable[[], None]) -> None:
        self._producer, self._appended = producer, appended

    def create_batch(self) -> Any:
        return self._producer.create_batch()

    async def send_batch(self, *given: Any, **named: Any) -> Any:
        sent = await self._producer.send_batch(*given, **named)

        async def appended() -> Any:
            metadata = await sent
            self._appended()
            return metadata

        return asyncio.ensure_future(appended())


class Watched:
    """A write, where it has several chunks: says when the first was applied and when only the last is left."""

    def __init__(self, write: Any, at: Callable[[str], None]) -> None:
        self._write, self._at, self._done = write, at, 0

    def __len__(self) -> int:
        return len(self._write)

    @property
    def is_separated(self) -> bool:
        return bool(self._write.is_separated)

    def separate(self, split: Any) -> None:
        self._write.separate(split)

    def next(self, size: int) -> Any:
        waiting = self._write.next(size)
        if len(waiting) == 1 and self._done:
            self._at("before the last chunk")
        return waiting

    def done(self) -> None:
        self._write.done()
        self._done += 1
        if self._done == 1 and len(self._write.next(CHUNK)):
            self._at("after the first chunk")


def _halves(some: list[Any]) -> tuple[list[Any], list[Any]]:
    return some[: len(some) // 2], some[len(some) // 2 :]


def wrap(holder: Any, name: str, around: Method) -> None:
    """Puts ``around(original, ...)`` in the place of a coroutine function."""
    original = getattr(holder, name)

    async def wrapped(*given: Any, **named: Any) -> Any:
        return await around(original, *given, **named)

    setattr(holder, name, wrapped)


def main(point: str, topic: str, passes: int) -> None:
    assert point in (*POINTS, "never"), point
    app.MAX_POLL_RECORDS = POLL_RECORDS
    writer.CHUNK, write_batch.AHEAD = CHUNK, 1
    # every write in transactions, where there are any
    writer.LEAST_OF_TRANSACTIONS, writer.TRANSACTION = 1, CHUNK
    Death(point, topic, passes).install()
    sys.argv = ["attendance", "worker"]
    commands.main()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
