"""A service that is unavailable is logged once when it goes and once when it comes, whether it refuses or is silent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiokafka.errors import KafkaConnectionError
from structlog.testing import capture_logs

from worker.stream.retry import until_done


def logged(attempt: Callable[[], Awaitable[int]], silence: float | None = 0.05) -> list[str]:
    """The events and errors that are logged until the attempt returns 1."""
    with capture_logs() as lines:
        assert asyncio.run(until_done("kafka", attempt, silence=silence, address="b:1")) == 1
    assert all((line["what"], line["address"]) == ("kafka", "b:1") for line in lines)
    return [" ".join(filter(None, (line["event"], line.get("error")))) for line in lines]


def attempts(*delays: float) -> Callable[[], Awaitable[int]]:
    """Calls that take so long, seconds; all but the last fail then."""
    remaining = list(delays)

    async def attempt() -> int:
        await asyncio.sleep(remaining.pop(0))
        if remaining:
            raise KafkaConnectionError("b:1")
        return 1

    return attempt


def test_a_service_that_answers_is_not_logged() -> None:
    assert logged(attempts(0)) == []


def test_a_service_that_refuses_is_logged_once() -> None:
    assert logged(attempts(0, 0, 0)) == [
        "waiting KafkaConnectionError('b:1')",
        "resumed",
    ]


def test_a_silent_service_is_logged_before_its_client_gives_up() -> None:
    assert logged(attempts(0.3)) == ["waiting no answer for 0.05 s", "resumed"]
    assert logged(attempts(0.3, 0, 0.3)) == ["waiting no answer for 0.05 s", "resumed"]


def test_a_call_that_may_take_any_time_is_not_silent() -> None:
    assert logged(attempts(0.3), None) == []


def test_an_error_that_waiting_does_not_cure_is_raised() -> None:
    async def attempt() -> int:
        raise ValueError("wrong")

    with capture_logs() as lines, pytest.raises(ValueError, match="wrong"):
        asyncio.run(until_done("kafka", attempt, silence=0.05))
    assert lines == []
