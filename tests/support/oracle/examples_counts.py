"""Hand-worked examples for the sentences of "The law of the fold" that make status and number: base and scans."""

from typing import Any

from tests.support.oracle.make import SCANNER, Example, at, att, ev, scan

STATED: list[tuple[str, dict[str, Any], str, int]] = [
    ("check_in", {}, "ATTENDED", 1),
    ("check_in", {"n": None}, "ATTENDED", 1),
    ("check_in", {"n": 0}, "ATTENDED", 0),
    ("check_in", {"n": 5}, "ATTENDED", 5),
    ("no_show", {}, "NOT_ATTENDED", 0),
    ("set", {"status": "ATTENDED"}, "ATTENDED", 1),
    ("set", {"status": "ATTENDED", "n": 0}, "ATTENDED", 0),
    ("set", {"status": "ATTENDED", "n": 3}, "ATTENDED", 3),
    ("set", {"status": "NOT_ATTENDED"}, "NOT_ATTENDED", 0),
    ("set", {"status": "NOT_ATTENDED", "n": 3}, "NOT_ATTENDED", 3),
    ("set", {"status": "NOT_SET", "n": None}, "NOT_SET", 0),
    ("set", {"status": "NOT_SET", "n": 2}, "NOT_SET", 2),
    ("cleared", {}, "NOT_SET", 0),
]

BASE = [
    Example(
        f"what a base states by itself: {kind} {data}",
        [ev(kind, at(0), **data)],
        attendances=att(status, number, at(0)),
    )
    for kind, data, status, number in STATED
] + [
    Example(
        f"the newest base holds, a {kind} too",
        [ev("check_in", at(1), n=4, by=SCANNER), ev(kind, at(2)), ev("set", at(0), status="NOT_SET", n=3, by=SCANNER)],
        attendances=att(status, number, at(2)),
    )
    for kind, status, number in (("check_in", "ATTENDED", 1), ("no_show", "NOT_ATTENDED", 0), ("cleared", "NOT_SET", 0))
]

SCANS = [
    Example(
        "without a base the number is that of the distinct participants",
        [scan("p1", at(0)), scan("p2", at(1)), scan("p1", at(2), id="2"), scan(" p2 ", at(3))],
        attendances=att("ATTENDED", 2, at(3), by=SCANNER),
    ),
    Example(
        "participants keep their case",
        [scan("p1", at(0)), scan("P1", at(0))],
        attendances=att("ATTENDED", 2, at(0), by=SCANNER),
    ),
    Example(
        "a participant who looks like a GUID keeps its case",
        [scan(f"0f8fad5b-d9cb-469f-a165-7086772895{end}", at(0)) for end in ("aa", "AA")],
        attendances=att("ATTENDED", 2, at(0), by=SCANNER),
    ),
    Example(
        "scans older than the base are covered by it",
        [scan("p1", at(0)), scan("p2", at(1)), scan("p3", at(2)), ev("check_in", at(3))],
        attendances=att("ATTENDED", 1, at(3)),
    ),
    Example(
        "a participant scanned before and after the base counts as scanned after it",
        [scan("p1", at(0)), ev("cleared", at(1)), scan("p1", at(2))],
        attendances=att("ATTENDED", 1, at(2), by=SCANNER),
    ),
    Example(
        "people who checked in are not counted twice: the base's number is larger",
        [ev("check_in", at(0), n=5), scan("p1", at(1)), scan("p2", at(2))],
        attendances=att("ATTENDED", 5, at(2), by=SCANNER),
    ),
    Example(
        "people who checked in are not counted twice: more were scanned",
        [ev("check_in", at(0), n=2), scan("p1", at(1)), scan("p2", at(1)), scan("p3", at(1, 1000))],
        attendances=att("ATTENDED", 3, at(1, 1000), by=SCANNER),
    ),
    Example(
        "a set to ATTENDED is larger as well",
        [ev("set", at(0), status="ATTENDED", n=3), scan("p1", at(1))],
        attendances=att("ATTENDED", 3, at(1), by=SCANNER),
    ),
    Example(
        "a scan after a check-in of nobody",
        [ev("check_in", at(0), n=0), scan("p1", at(1))],
        attendances=att("ATTENDED", 1, at(1), by=SCANNER),
    ),
    Example(
        "where the base is not ATTENDED its number does not matter (NOT_ATTENDED)",
        [ev("set", at(0), status="NOT_ATTENDED", n=5), scan("p1", at(1))],
        attendances=att("ATTENDED", 1, at(1), by=SCANNER),
    ),
    Example(
        "where the base is not ATTENDED its number does not matter (NOT_SET)",
        [ev("set", at(0), status="NOT_SET", n=5), scan("p1", at(1)), scan("p2", at(1))],
        attendances=att("ATTENDED", 2, at(1), by=SCANNER),
    ),
    Example(
        "a scan after a no-show is an attendance",
        [ev("no_show", at(0)), scan("p1", at(1))],
        attendances=att("ATTENDED", 1, at(1), by=SCANNER),
    ),
    Example("without base and scans there is no attendance", [ev("deleted", at(0))], attendances={}, tallies={}),
]

SHOWN = [
    Example(
        "updatedDate and source are those of the newest counting event, a repeated scan too",
        [ev("check_in", at(0), n=5), scan("p1", at(1)), scan("p1", at(2), by="/devices/gate")],
        attendances=att("ATTENDED", 5, at(2), by="/devices/gate"),
    ),
    Example(
        "updatedDate and source are not those of what came last",
        [ev("check_in", at(2)), scan("p1", at(1))],
        attendances=att("ATTENDED", 1, at(2)),
    ),
    Example(
        "updatedDate is cut at the millisecond",
        [ev("check_in", "2026-11-22T10:00:59.999999Z")],
        attendances=att("ATTENDED", 1, at(0, 59_999_000)),
    ),
]
