"""A process that was stopped for longer than its session holds its effects back when it wakes up."""

import asyncio

import pytest

from worker.stream import lease as module
from worker.stream.lease import Lease


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()

    async def passes(seconds: float) -> None:
        moved.now += seconds

    monkeypatch.setattr(module, "monotonic", moved)
    monkeypatch.setattr(asyncio, "sleep", passes)
    return moved


def test_a_lease_renewed_in_time_delays_no_effect(clock: Clock) -> None:
    lease = Lease(timeout=10)
    clock.now += 7.9
    before = clock.now
    asyncio.run(lease.hold())
    assert clock.now == before


def test_after_a_gap_effects_wait_for_twice_the_session(clock: Clock) -> None:
    lease = Lease(timeout=10)
    clock.now += 11
    woke = clock.now
    asyncio.run(lease.hold())
    assert 20 <= clock.now - woke < 21


def test_a_renewal_after_the_gap_does_not_hide_it(clock: Clock) -> None:
    lease = Lease(timeout=10)
    clock.now += 11
    lease._renew()
    woke = clock.now
    asyncio.run(lease.hold())
    assert clock.now - woke >= 20
