"""Three rounds of faults; `python -m tests.faults` runs fifty, and any one again by its seed."""

from collections.abc import Iterator

import pytest

from tests.faults.round import run
from tests.faults.schedule import plan
from tests.faults.stage import Stage

SEEDS = [6, 21, 36]
#: With what the workers of each round fold: the best that is installed, both in one group, Python alone.
CORES = [("auto",), ("auto", "python"), ("python",)]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as stage:
        yield stage


@pytest.mark.parametrize(("seed", "cores"), list(zip(SEEDS, CORES, strict=True)))
def test_after_the_faults_everything_is_what_the_oracle_counts(stage: Stage, seed: int, cores: tuple[str, ...]) -> None:
    report = run(plan(seed), stage, cores=cores)
    print(report)
    assert not report.wrong, str(report)
