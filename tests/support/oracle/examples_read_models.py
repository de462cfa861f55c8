"""Hand-worked examples for session tallies and booking summaries."""

from tests.support.oracle.make import Example, at, ev, listed, missed, record, scan, text, upsert
from tests.support.oracle.shapes import BookingRecord

NINE, TEN, ELEVEN, NOON = at(-60), at(0), at(60), at(120)


def when(micros: int) -> str:
    """A whole millisecond as the read models write it."""
    return text(micros)[:-4] + "Z"


TALLIES = [
    Example(
        "listed sessions without an attendance are NOT_SET",
        [],
        [upsert("b1", 2, sessions=listed("s1")), upsert("b2", 3, sessions=listed("s1"))],
        tallies={
            "s1": {
                "bookings": 2,
                "attended": 0,
                "notAttended": 0,
                "notSet": 2,
                "attendees": 0,
                "expectedParticipants": 5,
                "startsAt": None,
                "endsAt": None,
            }
        },
    ),
    Example(
        "an attendance of an unknown booking makes a pair, without expected participants",
        [ev("check_in", TEN, n=4)],
        tallies={"s1": {"bookings": 1, "attended": 1, "notSet": 0, "attendees": 4, "expectedParticipants": 0}},
    ),
    Example(
        "each pair counts once, by its status; attendees are those of ATTENDED",
        [
            ev("check_in", TEN, n=4),
            ev("set", TEN, b="b2", status="NOT_ATTENDED", n=7),
            ev("set", TEN, b="b3", status="NOT_SET", n=7),
            scan("p1", TEN, b="b4"),
        ],
        [upsert("b1", 2, sessions=listed("s1")), upsert("b5", 3, sessions=listed("s1"))],
        tallies={
            "s1": {
                "bookings": 5,
                "attended": 2,
                "notAttended": 1,
                "notSet": 2,
                "attendees": 5,
                "expectedParticipants": 5,
            }
        },
    ),
    Example(
        "a known booking that came to a session it does not list is expected there too",
        [ev("check_in", TEN, s="s2")],
        [upsert("b1", 2, sessions=listed(("s1", TEN, ELEVEN)))],
        tallies={
            "s1": {"bookings": 1, "notSet": 1, "expectedParticipants": 2, "startsAt": when(TEN)},
            "s2": {"bookings": 1, "attended": 1, "expectedParticipants": 2, "startsAt": None, "endsAt": None},
        },
    ),
    Example(
        "a canceled booking lists nothing, and what came of it is not expected",
        [ev("check_in", TEN)],
        [upsert("b1", 2, status="CANCELED", sessions=listed(("s1", TEN, ELEVEN), "s2"))],
        tallies={"s1": {"bookings": 1, "attended": 1, "expectedParticipants": 0, "startsAt": None, "endsAt": None}},
    ),
    Example(
        "a deleted booking lists nothing",
        [],
        [upsert(sessions=listed("s1")), record("b1", "booking.deleted", {})],
        tallies={},
        summaries={},
    ),
    Example(
        "a booking's null value lists nothing",
        [],
        [upsert(sessions=listed("s1")), BookingRecord("b1", None)],
        tallies={},
        summaries={},
    ),
    Example(
        "a session that the last record no longer lists is gone",
        [],
        [upsert(sessions=listed("s1", "s2")), upsert(sessions=listed("s2"))],
        tallies={"s2": {"bookings": 1}},
        summaries={"b1": {"notSet": 1}},
    ),
    Example(
        "a deleted attendance of a listed session is NOT_SET",
        [ev("check_in", TEN), ev("deleted", ELEVEN)],
        [upsert(sessions=listed("s1"))],
        tallies={"s1": {"bookings": 1, "attended": 0, "notSet": 1, "attendees": 0}},
    ),
    Example(
        "earliest start and latest end of the bookings that list it",
        [],
        [
            upsert("b1", sessions=listed(("s1", TEN, ELEVEN))),
            upsert("b2", sessions=listed(("s1", ELEVEN, NOON))),
            upsert("b3", sessions=listed("s1")),
            upsert("b4", status="CANCELED", sessions=listed(("s1", NINE, NOON))),
        ],
        tallies={"s1": {"bookings": 3, "startsAt": when(TEN), "endsAt": when(NOON)}},
    ),
    Example(
        "the times that the bookings give now",
        [],
        [upsert(sessions=listed(("s1", NINE, NOON))), upsert(sessions=listed(("s1", TEN, ELEVEN)))],
        tallies={"s1": {"startsAt": when(TEN), "endsAt": when(ELEVEN)}},
    ),
    Example(
        "a session listed twice by one booking counts once",
        [],
        [upsert("b1", 3, sessions=listed(("s1", TEN, None), (" s1", NINE, ELEVEN), "s1"))],
        tallies={
            "s1": {"bookings": 1, "expectedParticipants": 3, "startsAt": when(NINE), "endsAt": when(ELEVEN)},
        },
        summaries={"b1": {"notSet": 1}},
    ),
    Example(
        "times are in UTC, cut at the millisecond",
        [],
        [upsert(sessions=[{"sessionId": "s1", "startsAt": "2026-11-22T12:00:00.1239999+02:00"}])],
        tallies={"s1": {"startsAt": "2026-11-22T10:00:00.123Z", "endsAt": None}},
    ),
]

SUMMARIES = [
    Example(
        "sessions by status over the same pairs",
        [
            ev("check_in", TEN, s="s1"),
            ev("no_show", TEN, s="s2"),
            ev("check_in", TEN, s="s3"),
            ev("check_in", TEN, s="s4"),
            ev("cleared", TEN, s="s5"),
        ],
        [upsert(sessions=listed("s1", "s6"))],
        summaries={
            "b1": {"attended": 3, "notAttended": 1, "notSet": 2, "noShowRate": 0.25, "longestNoShowRun": 1},
        },
    ),
    Example("no rate without a decision", [ev("cleared", TEN)], summaries={"b1": {"noShowRate": 0, "notSet": 1}}),
    Example("all missed", missed("s1", "s2"), summaries={"b1": {"noShowRate": 1, "longestNoShowRun": 2}}),
    Example(
        "the run is in order of sessionId where no start is known",
        [*missed("s1", "s2", "s4", "s5", "s6"), ev("check_in", TEN, s="s3")],
        summaries={"b1": {"notAttended": 5, "longestNoShowRun": 3}},
    ),
    Example(
        "sessionIds are in code point order",
        [*missed("B", "a"), ev("check_in", TEN, s="C")],
        summaries={"b1": {"longestNoShowRun": 1}},
    ),
    Example(
        "the run is in order of the start first",
        [*missed("s1", "s2", "s4"), ev("check_in", TEN, s="s3")],
        [upsert(sessions=listed(("s1", TEN, None), ("s2", ELEVEN, None), ("s4", NINE, None), ("s3", NOON, None)))],
        summaries={"b1": {"longestNoShowRun": 3}},
    ),
    Example(
        "an unknown start is last",
        [*missed("s1", "s3"), ev("check_in", TEN, s="s2")],
        [upsert(sessions=listed(("s3", TEN, None), ("s2", ELEVEN, None)))],
        summaries={"b1": {"longestNoShowRun": 1}},
    ),
    Example(
        "NOT_SET neither counts nor breaks the run",
        [*missed("s1", "s4"), ev("cleared", TEN, s="s3")],
        [upsert(sessions=listed("s2"))],
        summaries={"b1": {"notSet": 2, "longestNoShowRun": 2}},
    ),
    Example(
        "another booking's times do not order this one's sessions",
        [*missed("s1", "s3"), ev("check_in", TEN, s="s2")],
        [upsert("b2", sessions=listed(("s1", NOON, None), ("s2", NINE, None), ("s3", TEN, None)))],
        summaries={"b1": {"longestNoShowRun": 1}, "b2": {"notSet": 3}},
    ),
    Example(
        "a canceled booking keeps what came of it, in the order of its list",
        [*missed("s1", "s3"), ev("check_in", TEN, s="s2")],
        [
            upsert(
                status="CANCELED",
                sessions=listed(("s1", NINE, None), ("s3", TEN, None), ("s2", NOON, None), ("s4", NINE, None)),
            )
        ],
        summaries={"b1": {"attended": 1, "notAttended": 2, "notSet": 0, "longestNoShowRun": 2}},
    ),
]
