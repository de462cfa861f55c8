"""Partitions of one poll wait for each other, but for nothing else and never for long."""

import asyncio
from collections.abc import Awaitable, Callable

from worker.engine.gathering import GATHER_SECONDS, Gathering

Scenario = Callable[[Gathering, list[int]], Awaitable[None]]


def run(scenario: Scenario) -> None:
    async def running() -> None:
        await asyncio.wait_for(scenario(Gathering(), []), 30)

    asyncio.run(running())


def start(gathering: Gathering, gone: list[int], *partitions: int) -> list[asyncio.Task[None]]:
    async def wait(partition: int) -> None:
        await gathering.wait(partition)
        gone.append(partition)

    return [asyncio.create_task(wait(partition)) for partition in partitions]


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_the_last_partition_of_a_poll_lets_all_go() -> None:
    async def scenario(gathering: Gathering, gone: list[int]) -> None:
        gathering.begin([1, 2, 3])
        tasks = start(gathering, gone, 1, 2)
        await turns()
        assert gone == []
        tasks += start(gathering, gone, 3)
        await turns()
        assert sorted(gone) == [1, 2, 3]
        await asyncio.gather(*tasks)

    run(scenario)


def test_a_partition_with_nothing_to_append_is_not_waited_for() -> None:
    async def scenario(gathering: Gathering, gone: list[int]) -> None:
        gathering.begin([1, 2])
        tasks = start(gathering, gone, 1)
        await turns()
        gathering.leave(2)
        await asyncio.gather(*tasks)
        assert gone == [1]

    run(scenario)


def test_the_next_poll_lets_those_of_the_last_one_go() -> None:
    async def scenario(gathering: Gathering, gone: list[int]) -> None:
        gathering.begin([1, 2])
        tasks = start(gathering, gone, 1)
        await turns()
        gathering.begin([2, 3])
        await asyncio.gather(*tasks)
        assert gone == [1]

    run(scenario)


def test_a_slow_partition_delays_the_others_for_milliseconds() -> None:
    async def scenario(gathering: Gathering, gone: list[int]) -> None:
        gathering.begin([1, 2, 3])
        await asyncio.gather(*start(gathering, gone, 1, 2))
        assert sorted(gone) == [1, 2]
        # the others gather anew, and again not for ever
        gathering.begin([1, 2, 3])
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await gathering.wait(1)
        assert loop.time() - begun >= GATHER_SECONDS / 2

    run(scenario)


def test_nobody_waits_who_is_alone_or_of_no_poll() -> None:
    async def scenario(gathering: Gathering, gone: list[int]) -> None:
        tasks = start(gathering, gone, 1)
        gathering.begin([2])
        tasks += start(gathering, gone, 2)
        await turns()
        assert sorted(gone) == [1, 2]
        await asyncio.gather(*tasks)

    run(scenario)


def test_a_revoked_partition_lets_the_others_wait_for_each_other() -> None:
    async def scenario(gathering: Gathering, gone: list[int]) -> None:
        gathering.begin([1, 2, 3])
        revoked, other = start(gathering, gone, 1, 2)
        await turns()
        revoked.cancel()
        await turns()
        assert gone == []
        await asyncio.gather(other, *start(gathering, gone, 3))
        assert sorted(gone) == [2, 3]
        assert revoked.cancelled()

    run(scenario)
