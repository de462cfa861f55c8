"""Three rounds of faults; `python -m tests.faults` runs fifty, and any one again by its seed."""

from collections.abc import Iterator

import pytest

from tests.faults.round import run
from tests.faults.schedule import plan
from tests.faults.stage import Stage

SEEDS = [6, 21, 36]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


@pytest.mark.parametrize("seed", SEEDS)
def test_after_the_faults_everything_is_what_the_oracle_counts(stage: Stage, seed: int) -> None:
    report = run(plan(seed), stage)
    print(report)
    assert not report.wrong, str(report)
