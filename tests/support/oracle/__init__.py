"""A second, deliberately naive reading of the contract: it looks at the whole set of events every time.

Written from the contract alone, without the product's code, so that the two can be compared.
"""

from collections.abc import Iterable

from tests.support.oracle.alerts import open_alerts
from tests.support.oracle.arrivals import arrivals, devices
from tests.support.oracle.law import judged_pairs
from tests.support.oracle.reading import known_bookings
from tests.support.oracle.shapes import NOTHING, BookingRecord, Delivery, Outcome, Rules
from tests.support.oracle.tallies import summaries, tallies

__all__ = ["NOTHING", "BookingRecord", "Delivery", "Outcome", "Rules", "outcome"]


def outcome(
    deliveries: Iterable[Delivery], bookings: Iterable[BookingRecord], rules: Rules = Rules(), most_devices: int = 10_000
) -> Outcome:
    """What the contract says these deliveries and booking records (in topic order) come to, in one partition."""
    deliveries = list(deliveries)
    judged = judged_pairs(deliveries, rules)
    known = known_bookings(list(bookings))
    attendances = {pair: one.attendance for pair, one in judged.items()}
    return Outcome(
        attendances=attendances,
        tallies=tallies(attendances, known),
        summaries=summaries(attendances, known),
        alerts=open_alerts(judged, known, rules),
        arrivals=arrivals(judged),
        devices=devices(deliveries, rules, most_devices),
    )
