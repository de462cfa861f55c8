"""Concurrent questions whose round trips are executed and answered step by step, in an order that the test chooses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from redis.crc import key_slot

from worker.redis.client import Client, Server

Commands = Sequence[Sequence[Any]]
Work = Callable[[], Awaitable[Any]]
#: How often the event loop may turn until every question waits for a round trip again.
_TURNS = 12
_SCRIPTS = ("EVAL", "EVALSHA", "EVAL_RO", "EVALSHA_RO")


class RoundTrip:
    """Commands that are on their way: executed part by part, then delivered."""

    def __init__(self, parts: list[list[int]], commands: Commands) -> None:
        self.parts, self.commands = parts, commands
        self.answers: list[Any] = [None] * len(commands)
        self.answered: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()


class Interleaving:
    """Takes the place of a client's `ask`.

    Args:
        client: the readers' own; nobody else asks through it.
        choose: a number below the one given.
    """

    def __init__(self, client: Client, choose: Callable[[int], int]) -> None:
        self._is_cluster = not isinstance(client, Server)
        self._execute: Callable[[Commands], Awaitable[list[Any]]] = client.ask
        self._client = client
        self._choose = choose
        self._trips: list[RoundTrip] = []
        client.ask = self._ask  # type: ignore[method-assign]

    def restore(self) -> None:
        """Gives the client its own `ask` back."""
        del self._client.ask

    async def run(self, questions: Sequence[Work], changes: Sequence[Work]) -> list[Any]:
        """What each question answers, or the error it ends with; the changes happen in their order."""
        waiting, upcoming = list(questions), list(changes)
        asked: list[asyncio.Task[Any]] = []

        async def begin() -> None:
            asked.append(asyncio.create_task(_awaited(waiting.pop(0))))

        async def change() -> None:
            await upcoming.pop(0)()

        while waiting or upcoming or self._trips:
            steps: list[Work] = [*self._steps(), *([begin] if waiting else ()), *([change] if upcoming else ())]
            await steps[self._choose(len(steps))]()
            for _ in range(_TURNS):
                await asyncio.sleep(0)
        return await asyncio.gather(*asked, return_exceptions=True)

    def _steps(self) -> Iterator[Work]:
        for trip in self._trips:
            if not trip.parts:
                yield lambda trip=trip: self._deliver(trip)
            # one server has an order of commands, the masters of a cluster have none among each other
            for number in range(len(trip.parts) if self._is_cluster else min(1, len(trip.parts))):
                yield lambda trip=trip, number=number: self._execute_part(trip, trip.parts.pop(number))

    async def _ask(self, commands: Commands) -> list[Any]:
        trip = RoundTrip(self._parts(commands), commands)
        self._trips.append(trip)
        return await trip.answered

    async def _execute_part(self, trip: RoundTrip, part: list[int]) -> None:
        answers = await self._execute([trip.commands[number] for number in part])
        for number, answer in zip(part, answers, strict=True):
            trip.answers[number] = answer

    async def _deliver(self, trip: RoundTrip) -> None:
        self._trips.remove(trip)
        trip.answered.set_result(trip.answers)

    def _parts(self, commands: Commands) -> list[list[int]]:
        numbers = list(range(len(commands)))
        if self._is_cluster:
            by_slot: dict[int, list[int]] = {}
            for number in numbers:
                words = commands[number]
                by_slot.setdefault(key_slot(str(words[3 if words[0] in _SCRIPTS else 1]).encode()), []).append(number)
            return list(by_slot.values())
        # what others send may come in between two commands
        cut = self._choose(len(numbers))
        return [part for part in (numbers[:cut], numbers[cut:]) if part]


async def _awaited(question: Work) -> Any:
    return await question()
