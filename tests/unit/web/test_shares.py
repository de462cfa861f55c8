"""Shares of request slots and body bytes, and answers made once for many."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from worker.web.repeated import SharedResponses
from worker.web.shares import Shares


def taken(shares: Shares, holder: str) -> int:
    """How much a holder gets, one at a time."""
    count = 0
    while shares.take(holder):
        count += 1
    return count


@pytest.mark.parametrize(("total", "alone", "second", "third"), [(512, 256, 128, 64), (6, 3, 2, 1), (2, 1, 1, 0), (1, 1, 0, 0)])
def test_a_holder_has_no_more_than_is_left(total: int, alone: int, second: int, third: int) -> None:
    shares = Shares(total)
    assert [taken(shares, name) for name in "abc"] == [alone, second, third]


@given(st.integers(1, 600), st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 40), st.booleans()), max_size=60))
def test_shares_hold_in_any_order(total: int, steps: list[tuple[str, int, bool]]) -> None:
    shares, held = Shares(total), dict.fromkeys("abcde", 0)
    for holder, amount, give_back in steps:
        if give_back and held[holder]:
            back = min(amount, held[holder])
            shares.give_back(holder, back)
            held[holder] -= back
        elif shares.take(holder, amount):
            held[holder] += amount
        assert sum(held.values()) <= total
    for holder, amount in held.items():
        if amount:
            shares.give_back(holder, amount)
    assert taken(shares, "new") == (total + 1) // 2, "what was given back is there again"


class Counting:
    """An application that counts its calls and answers when it may."""

    def __init__(self) -> None:
        self.calls = 0
        self.may_answer = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.calls += 1
        await self.may_answer.wait()
        if self.error:
            raise self.error
        await send({"type": "http.response.body", "body": b"%d" % self.calls})


async def nothing() -> Message:
    raise AssertionError("no body is read")


def test_many_who_ask_at_once_cost_one_answer() -> None:
    async def asking() -> None:
        app, clock, got = Counting(), [0.0], []
        repeated = SharedResponses(app, lambda: clock[0])

        async def ask() -> None:
            async def send(message: Message) -> None:
                got.append(message["body"])

            await repeated({"path": "/metrics"}, nothing, send)

        async with asyncio.TaskGroup() as group:
            first = group.create_task(ask())
            others = [group.create_task(ask()) for _ in range(31)]
            await asyncio.sleep(0)
            first.cancel()
            app.may_answer.set()
        assert (app.calls, got, len(others)) == (1, [b"1"] * 31, 31)
        clock[0] += 0.4
        await ask()
        assert app.calls == 1
        clock[0] += 0.2
        await ask()
        assert (app.calls, got[-1]) == (2, b"2")
        clock[0] += 1
        app.error = TimeoutError("Redis")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await ask()
        assert app.calls == 3

    asyncio.run(asking())
