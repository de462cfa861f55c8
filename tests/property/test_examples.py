"""The hand-worked examples of the contract's sentences, one by one, on the product."""

import pytest

from tests.support import subject
from tests.support.oracle.examples_alerts import ALERTS
from tests.support.oracle.examples_counts import BASE, SCANS, SHOWN
from tests.support.oracle.examples_law import CLOCK, HORIZON, IDENTITY, IDS, ORDER
from tests.support.oracle.examples_read_models import SUMMARIES, TALLIES
from tests.support.oracle.make import Example, check

EXAMPLES = [
    *((one.name, one) for one in (*CLOCK, *IDENTITY, *ORDER, *HORIZON, *IDS, *BASE, *SCANS, *SHOWN)),
    *((one.name, one) for one in (*TALLIES, *SUMMARIES)),
    *((f"{kind}: {one.name}", one) for kind, one in ALERTS),
]


@pytest.mark.parametrize("example", [one for _, one in EXAMPLES], ids=[name for name, _ in EXAMPLES])
def test_each_example_of_the_contract_holds(example: Example) -> None:
    """In one batch each, bookings first or last, and one by one backwards."""
    deliveries, bookings = example.deliveries, example.bookings
    backwards = [[one] for one in deliveries[::-1]]
    check(example, subject.outcome([deliveries, bookings], example.rules))
    check(example, subject.outcome([bookings, deliveries], example.rules))
    check(example, subject.outcome([*backwards, *([one] for one in bookings)], example.rules))
    check(example, subject.outcome([*([one] for one in bookings), *backwards], example.rules))
