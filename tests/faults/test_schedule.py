"""Fifty seeds bring every kind of fault several times, and a seed always brings the same."""

from collections import Counter

from tests.faults.schedule import MAX_WORKERS, MINUTE_SEED, Kind, plan
from tests.faults.test_rounds import SEEDS

FULL = range(50)


def test_fifty_seeds_bring_every_kind_several_times() -> None:
    met = Counter(kind for seed in FULL for kind in plan(seed).kinds)
    assert {kind for kind in Kind if met[kind] < 3} == set(), met


def test_a_round_has_two_to_four_faults_and_enough_slots() -> None:
    for seed in FULL:
        made = plan(seed)
        assert 2 <= len(made.faults) <= 4
        assert 1 <= made.workers < MAX_WORKERS
        assert (made.brokers == 3) == (Kind.BROKER_KILLED in made.kinds)


def test_one_round_keeps_redis_away_for_a_minute() -> None:
    assert MINUTE_SEED in FULL
    assert [seed for seed in FULL if plan(seed).span > 60] == [MINUTE_SEED]


def test_a_seed_always_gives_the_same_schedule() -> None:
    assert [plan(seed) for seed in FULL] == [plan(seed) for seed in FULL]
    assert len({tuple(plan(seed).faults) for seed in FULL}) == len(FULL)


def test_the_rounds_of_make_test_cover_workers_redis_and_kafka() -> None:
    met = set().union(*(plan(seed).kinds for seed in SEEDS))
    assert len(SEEDS) == 3
    assert len(met) >= 8, met
