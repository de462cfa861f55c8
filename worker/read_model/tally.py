"""The counts of a session's tally, as Redis holds them and as readers see them.

Redis holds ``bookings``, ``expectedParticipants``, ``reported`` (an ATTENDED attendance adds 1, a NOT_ATTENDED one 2**32, so
that a status that changes is one command) and ``companions`` (the attendees without one of each ATTENDED attendance).
"""

from collections.abc import Mapping

#: What an attendance adds to ``reported``, by status.
REPORTED = (1, 1 << 32, 0)
FIELDS = ("bookings", "reported", "companions", "expectedParticipants")


def shown_counts(held: Mapping[str, int]) -> dict[str, int]:
    """As readers see them; a field that is not held is 0."""
    bookings, reported, companions, expected = (held.get(name, 0) for name in FIELDS)
    missed, attended = divmod(reported, REPORTED[1])
    return {
        "bookings": bookings,
        "attended": attended,
        "notAttended": missed,
        "notSet": bookings - attended - missed,
        "attendees": attended + companions,
        "expectedParticipants": expected,
    }
