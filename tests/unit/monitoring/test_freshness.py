"""Until when a log is known to be completed."""

from hypothesis import given
from hypothesis import strategies as st

from worker.monitoring.freshness import LogFreshness

steps = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)), max_size=40)
"""Of each second: by how much the log grows, how much is completed, and how old the confirmation of the end is."""


@given(steps)
def test_fresh_at_is_the_last_time_whose_end_is_completed(steps: list[tuple[int, int, int]]) -> None:
    log, end, completed, ends, at = LogFreshness(), 0, 0, [0], 0
    for now, (grown, done, age) in enumerate(steps, 1):
        end += grown
        ends.append(end)
        at = max(now - age, at)
        completed = min(end, completed + done)
        log.observe(ends[at], float(at), completed)
        if log.fresh_at is not None:
            # everything that was there then is completed, and nothing newer is promised
            assert ends[int(log.fresh_at)] <= completed
            assert log.fresh_at <= now
        if ends[at] <= completed:
            assert log.fresh_at is not None
            assert log.fresh_at >= at


def test_an_unconfirmed_log_grows_old() -> None:
    log = LogFreshness()
    log.observe(5, 100.0, 5)
    log.observe(5, 100.0, 5)
    assert log.fresh_at == 100.0


def test_a_long_delay_keeps_few_ends_and_never_looks_fresh() -> None:
    log = LogFreshness()
    log.observe(1, 0.0, 1)
    for second in range(1, 10_000):
        log.observe(1 + second, float(second), 1)
    assert log.fresh_at == 0.0
    assert len(log._ends) <= 256
    log.observe(10_000, 10_000.0, 5_000)
    assert 4_000 < (log.fresh_at or 0) <= 5_000
    log.observe(10_000, 10_001.0, 10_000)
    assert log.fresh_at == 10_001.0
