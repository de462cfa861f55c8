"""Batches concurrent questions: those that arrive during a round trip are sent together in the next one."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Batcher(Generic[K, V]):
    """Bound to the running event loop while questions are pending.

    Args:
        ask_all: answers several questions in one round trip; an exception is the answer of its question.
        size: the most that it takes at a time.
    """

    def __init__(self, ask_all: Callable[[Sequence[K]], Awaitable[Mapping[K, V | Exception]]], size: int) -> None:
        self._ask_all = ask_all
        self._size = size
        self._pending: list[tuple[K, asyncio.Future[V]]] = []
        self._task: asyncio.Task[None] | None = None

    async def ask(self, question: K) -> V:
        """The answer to a question. Raises what ``ask_all`` raises."""
        future: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._pending.append((question, future))
        if self._task is None:
            self._task = asyncio.create_task(self._send())
        return await future

    async def _send(self) -> None:
        batch: list[tuple[K, asyncio.Future[V]]] = []
        try:
            while self._pending:
                batch, self._pending = self._pending[: self._size], self._pending[self._size :]
                try:
                    answers = await self._ask_all(list(dict.fromkeys(question for question, _ in batch)))
                except Exception as error:  # noqa: BLE001 - raised by each question
                    for _, future in batch:
                        _resolve(future, error)
                else:
                    for question, future in batch:
                        _resolve(future, answers[question])
        finally:
            self._task = None
            # no effect unless this task was cancelled: otherwise all are done
            for _, future in (*batch, *self._pending):
                future.cancel()


def _resolve(future: "asyncio.Future[V]", result: V | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
