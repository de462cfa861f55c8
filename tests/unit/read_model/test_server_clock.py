"""What is known of the clock of a Redis server."""

from hypothesis import given
from hypothesis import strategies as st

from worker.read_model.writer import ServerClock

trips = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=20)
"""Of each question, in seconds: the time before it, its way, and that of its answer."""


@given(trips)
def test_a_time_of_the_server_is_never_later_than_it_was(trips: list[tuple[int, int, int]]) -> None:
    clock, now, ahead = ServerClock(), 0, 1_000_000
    assert clock.at_least(0.0) == ""
    for before, way, back in trips:
        asked_at = now + before
        now = asked_at + way + back
        clock.observe((asked_at + way + ahead) * 1000, asked_at, now)
        assert (asked_at + ahead - max(way + back for _, way, back in trips)) * 1000 <= int(clock.at_least(asked_at))
        assert int(clock.at_least(asked_at)) <= (asked_at + ahead) * 1000


def test_another_server_has_another_clock() -> None:
    clock = ServerClock()
    clock.observe(50_000, 10.0, 10.1)
    clock.observe(20_000, 11.0, 11.1)
    assert clock.at_least(11.0) == 19_900
