"""Turns of histories within one process; of several processes: `tests/web/test_processes.py`."""

import asyncio

import pytest

from worker.web.history_turns import Busy, HistoryTurns


def test_the_tokens_of_a_process_wait_for_each_other() -> None:
    async def scenario() -> None:
        turns, order = HistoryTurns(), list[str]()
        done = asyncio.Event()

        async def read(holder: str) -> None:
            async with turns.take(holder, 60):
                order.append(holder)
                await done.wait()

        tasks = [asyncio.create_task(read(holder)) for holder in ("a", "b", "c", "d")]
        await asyncio.sleep(0)
        for holder in ("a", "b"):
            with pytest.raises(Busy):
                async with turns.take(holder, 60):
                    pass
        with pytest.raises(Busy):
            async with turns.take("e", 0.01):
                pass
        tasks[2].cancel()
        done.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert order == ["a", "b", "d"]
        for holder in ("a", "c", "e"):
            async with turns.take(holder, 60):
                pass

    asyncio.run(scenario())
