"""The rate of simulated events."""

import pytest

from worker.ops.simulate import batch_size


@pytest.mark.parametrize(("rate", "size"), [(0.1, 1), (5, 1), (19, 1), (200, 10), (1e6, 1000), (0, 1000)])
def test_events_of_a_slow_simulation_are_sent_one_by_one(rate: float, size: int) -> None:
    """Below 20 a second a thousand were sent at once, and then nothing until the rate was met."""
    assert batch_size(rate) == size
