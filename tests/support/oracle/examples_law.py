"""Hand-worked examples for the sentences of "The law of the fold": clock, identity, order, horizon."""

from tests.support.oracle.make import SCANNER, Example, at, att, erased, ev, scan

GUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
SESSION_GUID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"

CLOCK = [
    Example(
        "effective time is never later than received plus the tolerance",
        [ev("check_in", at(180), received=at(0), n=2)],
        attendances=att("ATTENDED", 2, at(5)),
    ),
    Example(
        "effective time is the time where that is not ahead by more than the tolerance",
        [ev("check_in", at(5), received=at(0))],
        attendances=att("ATTENDED", 1, at(5)),
        alerts=set(),
    ),
    Example(
        "effective time is the time where the event was received late",
        [ev("check_in", at(1), received=at(500))],
        attendances=att("ATTENDED", 1, at(1)),
    ),
    Example(
        "a device whose clock runs ahead does not win for ever",
        [ev("check_in", at(180), received=at(0)), ev("no_show", at(6), by=SCANNER)],
        attendances=att("NOT_ATTENDED", 0, at(6), by=SCANNER),
    ),
    Example(
        "times are cut, not rounded, and offsets are honoured",
        [ev("check_in", "2026-11-22t12:30:00.1239999999+02:30", received=at(0))],
        attendances=att("ATTENDED", 1, at(0, 123_000)),
    ),
    Example(
        "western offsets are honoured",
        [ev("check_in", "2026-11-21T23:00:00-11:00", received=at(0))],
        attendances=att("ATTENDED", 1, at(0)),
    ),
    Example(
        "digits after the microsecond make no later event: the digest e618.. of the check_in decides over e27e..",
        [
            ev("no_show", "2026-11-22T10:00:00.0000019Z", by="/k/1", received=at(0)),
            ev("check_in", "2026-11-22T10:00:00.0000011Z", by="/k/1", received=at(0)),
        ],
        attendances=att("ATTENDED", 1, at(0), by="/k/1"),
    ),
]

IDENTITY = [
    Example(
        "two kiosks that count alike do not swallow each other's events",
        [scan("p1", at(0), by="/k/1", id="1"), scan("p2", at(0), by="/k/2", id="1")],
        # c83531.. of /k/2 p2 is newer than c78d81.. of /k/1 p1
        attendances=att("ATTENDED", 2, at(0), by="/k/2"),
    ),
    Example(
        "an id used again with other content is another event",
        [scan("p1", at(0), id="1"), scan("p2", at(0), id="1")],
        attendances=att("ATTENDED", 2, at(0), by=SCANNER),
    ),
    Example(
        "an id used again at another time is another event",
        [ev("check_in", at(0), id="1", n=2), ev("check_in", at(1), id="1", n=3)],
        attendances=att("ATTENDED", 3, at(1)),
    ),
    Example(
        "copies count once, at the latest of their effective times",
        [ev("check_in", at(180), received=at(minute)) for minute in (0, 10, 7)],
        attendances=att("ATTENDED", 1, at(15)),
    ),
    Example(
        "no copy is effective later than its time",
        [ev("check_in", at(8), received=at(minute)) for minute in (0, 60)],
        attendances=att("ATTENDED", 1, at(8)),
        alerts=set(),
    ),
    Example(
        "before its copy comes the base is older than the scan",
        [ev("no_show", at(60), received=at(0)), scan("p1", at(6))],
        attendances=att("ATTENDED", 1, at(6), by=SCANNER),
    ),
    Example(
        "a copy received later lifts its base over the scan",
        [ev("no_show", at(60), received=at(0)), scan("p1", at(6)), ev("no_show", at(60), received=at(10))],
        attendances=att("NOT_ATTENDED", 0, at(15)),
    ),
    Example(
        "copies of one effective time count at the latest of their receptions",
        [
            ev("check_in", at(0), received=at(1)),
            ev("cleared", at(0), received=at(5)),
            ev("check_in", at(0), received=at(9)),
            ev("check_in", at(0), received=at(3)),
        ],
        attendances=att("ATTENDED", 1, at(0)),
    ),
    Example(
        "a copy received before the undo leaves the undo",
        [
            ev("check_in", at(0), received=at(1)),
            ev("cleared", at(0), received=at(5)),
            ev("check_in", at(0), received=at(3)),
        ],
        attendances=att("NOT_SET", 0, at(0)),
    ),
    Example(
        "a copy in another spelling is a copy",
        [
            ev("check_in", "2026-11-22T13:00:00Z", received=at(0), b=GUID, s=" s1", n=None),
            ev("check_in", "2026-11-22T14:00:00.000+01:00", received=at(2), b=f" {GUID.upper()}", s="s1\u2003"),
        ],
        attendances=att("ATTENDED", 1, at(7), b=GUID),
    ),
]

ORDER = [
    Example(
        "effective time comes before time",
        [ev("check_in", at(180), received=at(0)), ev("cleared", at(6))],
        attendances=att("NOT_SET", 0, at(6)),
    ),
    Example(
        "time comes before the digest (check_in later)",
        [ev("no_show", at(60), received=at(0)), ev("check_in", at(61), received=at(0))],
        attendances=att("ATTENDED", 1, at(5)),
    ),
    Example(
        "time comes before the digest (no_show later)",
        [ev("no_show", at(61), received=at(0)), ev("check_in", at(60), received=at(0))],
        attendances=att("NOT_ATTENDED", 0, at(5)),
    ),
    Example(
        "time comes before reception",
        [ev("no_show", at(60), received=at(0)), ev("check_in", at(5), received=at(9))],
        attendances=att("NOT_ATTENDED", 0, at(5)),
    ),
    Example(
        "a check_in received after an undo of the same instant holds",
        [ev("cleared", at(0), received=at(0, 400_000)), ev("check_in", at(0), received=at(0, 401_000))],
        attendances=att("ATTENDED", 1, at(0)),
    ),
    Example(
        "an undo received after a check_in of the same instant holds",
        [ev("check_in", at(0), received=at(0, 400_000)), ev("cleared", at(0), received=at(0, 401_000))],
        attendances=att("NOT_SET", 0, at(0)),
    ),
    Example(
        "reception comes before the digest: of e618.. and e27e.. the one received later (no_show)",
        [ev("check_in", at(0), by="/k/1"), ev("no_show", at(0), by="/k/1", received=at(0, 1))],
        attendances=att("NOT_ATTENDED", 0, at(0), by="/k/1"),
    ),
    Example(
        "reception decides between a base and a scan: the base received first does not cover it",
        [scan("p1", at(0), by="/k/1", received=at(0, 1)), ev("check_in", at(0), by="/k/1", n=0)],
        attendances=att("ATTENDED", 1, at(0), by="/k/1"),
    ),
    Example(
        "reception decides between a base and a scan: the base received last covers it",
        [scan("p1", at(0), by="/k/1"), ev("check_in", at(0), by="/k/1", n=5, received=at(0, 1)), scan("p2", at(0), by="/k/1")],
        attendances=att("ATTENDED", 5, at(0), by="/k/1"),
    ),
    Example(
        "reception decides whether a settler covers a report: no conflict where the set came last",
        [
            ev("check_in", at(0), by="/k/1", received=at(0)),
            ev("no_show", at(0), by="/k/2", received=at(1)),
            ev("set", at(0), by="/staff", status="ATTENDED", received=at(2)),
        ],
        attendances=att("ATTENDED", 1, at(0), by="/staff"),
        alerts=set(),
    ),
    Example(
        "reception decides whether a settler covers a report: conflict where the set came first",
        [
            ev("set", at(0), by="/staff", status="ATTENDED", received=at(0)),
            ev("check_in", at(0), by="/k/1", received=at(1)),
            ev("no_show", at(0), by="/k/2", received=at(2)),
        ],
        attendances=att("NOT_ATTENDED", 0, at(0), by="/k/2"),
        alerts={("CONFLICTING_REPORTS", "b1", "s1")},
    ),
    Example(
        "the digest decides by source: fd26.. over d1fe..",
        [ev("check_in", at(0), by=by, n=2) for by in ("/k/2", "/k/1")],
        attendances=att("ATTENDED", 2, at(0), by="/k/2"),
    ),
    Example(
        "the digest decides by number: d1fe.. over 0352..",
        [ev("check_in", at(0), by="/k/1", n=n) for n in (2, 5)],
        attendances=att("ATTENDED", 2, at(0), by="/k/1"),
    ),
    Example(
        "the digest of a number left out has an empty field: e618.. over d1fe..",
        [ev("check_in", at(0), by="/k/1", n=2), ev("check_in", at(0), by="/k/1")],
        attendances=att("ATTENDED", 1, at(0), by="/k/1"),
    ),
    Example(
        "the digest decides by id: with 2 it is c7e7.. over ae23.., with 1 (above) the other way",
        [ev("check_in", at(0), by="/k/1", id=id_, n=n) for id_, n in (("2", 5), ("2", 2), ("1", 5))],
        attendances=att("ATTENDED", 5, at(0), by="/k/1"),
    ),
    Example(
        "the digest decides by type: e618.. over e27e.. and 802f..",
        [ev(kind, at(0), by="/k/1") for kind in ("no_show", "check_in", "cleared")],
        attendances=att("ATTENDED", 1, at(0), by="/k/1"),
    ),
    Example(
        "the digest decides by status: fc3e.. over c506.. and abbc..",
        [ev("set", at(0), by="/k/1", status=status) for status in ("ATTENDED", "NOT_SET", "NOT_ATTENDED")],
        attendances=att("NOT_SET", 0, at(0), by="/k/1"),
    ),
    Example(
        "the digest decides by participant: d18e.. of p3 over c787.. of p1, whose source is /k/1",
        [scan("p1", at(0), by="/k/1"), scan("p3", at(0), by="/k/2"), scan("p4", at(0), by="/k/2")],
        attendances=att("ATTENDED", 3, at(0), by="/k/2"),
    ),
    Example(
        "the digest decides between a base and a scan: the base d1fe.. covers the scan c787..",
        [scan("p1", at(0), by="/k/1"), ev("check_in", at(0), by="/k/1", n=2)],
        attendances=att("ATTENDED", 2, at(0), by="/k/1"),
    ),
    Example(
        "the digest decides between a base and a scan: the scan c787.. is newer than the base 802f..",
        [scan("p1", at(0), by="/k/1"), ev("cleared", at(0), by="/k/1")],
        attendances=att("ATTENDED", 1, at(0), by="/k/1"),
    ),
]

HORIZON = [
    Example("what was deleted is gone", [ev("check_in", at(0)), ev("deleted", at(1))], attendances={}),
    Example(
        "an event at the horizon does not count",
        [ev("check_in", at(1)), ev("deleted", at(1)), ev("no_show", at(1)), scan("p1", at(1))],
        attendances={},
        alerts=set(),
    ),
    Example(
        "a later event brings it back, alone",
        [ev("check_in", at(0), n=5), ev("deleted", at(1)), scan("p1", at(1, 1000))],
        attendances=att("ATTENDED", 1, at(1, 1000), by=SCANNER),
    ),
    Example(
        "the latest deletion is the horizon",
        [ev("deleted", at(3)), ev("check_in", at(2)), ev("deleted", at(1), by=SCANNER)],
        attendances={},
    ),
    Example(
        "a deletion by a fast clock reaches to its effective time",
        [ev("deleted", at(180), received=at(0)), ev("check_in", at(5)), ev("check_in", at(5, 1000), s="s2")]
        + [ev("deleted", at(180), received=at(0), s="s2")],
        attendances=att("ATTENDED", 1, at(5, 1000), s="s2"),
    ),
    Example(
        "a deletion concerns one session of one booking",
        [ev("deleted", at(9))] + [ev("check_in", at(0), b=b, s=s) for b, s in (("b1", "s1"), ("b1", "s2"), ("b2", "s1"))],
        attendances=att("ATTENDED", 1, at(0), s="s2") | att("ATTENDED", 1, at(0), b="b2"),
    ),
    Example(
        "an erasure reaches every session of the booking and no other booking",
        [erased(at(5))]
        + [ev("check_in", at(m), b=b, s=s) for m, b, s in ((0, "b1", "s1"), (5, "b1", "s2"), (6, "b1", "s3"), (0, "b2", "s1"))],
        attendances=att("ATTENDED", 1, at(6), s="s3") | att("ATTENDED", 1, at(0), b="b2"),
    ),
    Example(
        "an erasure finds its booking in another spelling",
        [ev("check_in", at(0), b=GUID), erased(at(1), b=f" {GUID.upper()} ")],
        attendances={},
    ),
    Example(
        "a copy of an event received later counts again when it is later than the horizon",
        [ev("check_in", at(60), received=at(0)), ev("deleted", at(6)), ev("check_in", at(60), received=at(10))],
        attendances=att("ATTENDED", 1, at(15)),
    ),
    Example(
        "a copy of a deletion received later moves the horizon",
        [ev("deleted", at(60), received=at(0)), ev("check_in", at(6)), ev("deleted", at(60), received=at(10))],
        attendances={},
    ),
]

IDS = [
    Example(
        "ids are trimmed and GUIDs lower-cased",
        [ev("check_in", at(0), b=f"{GUID.upper()} ", s=f" {SESSION_GUID.upper()}")],
        attendances=att("ATTENDED", 1, at(0), b=GUID, s=SESSION_GUID),
    ),
    Example(
        "invisible characters at the ends, also before a GUID, make no other id",
        [ev("check_in", at(0), b=f"\ufeff{GUID.upper()}\u200b", s="\u2060s1\u00ad"), ev("no_show", at(1), b=GUID)],
        attendances=att("NOT_ATTENDED", 0, at(1), b=GUID),
    ),
    Example(
        "composed and decomposed accents are the same id, and the same participant",
        [
            scan("Ju\u0308rgen", at(0), b="Mu\u0308ller", s="Vie\u0323\u0302t"),
            scan("J\u00fcrgen", at(1), b="M\u00fcller", s="Vi\u1ec7t"),
        ],
        attendances=att("ATTENDED", 1, at(1), by=SCANNER, b="M\u00fcller", s="Vi\u1ec7t"),
    ),
    Example(
        "an invisible character inside makes another id",
        [ev("check_in", at(0), b="b\u200b1"), ev("no_show", at(0), b="b1")],
        attendances=att("ATTENDED", 1, at(0), b="b\u200b1") | att("NOT_ATTENDED", 0, at(0)),
    ),
    Example(
        "other ids keep their case",
        [ev("check_in", at(0), s="S1"), ev("no_show", at(0), s="s1")],
        attendances=att("ATTENDED", 1, at(0), s="S1") | att("NOT_ATTENDED", 0, at(0)),
    ),
    Example(
        "a GUID without its hyphens is no GUID",
        [ev("check_in", at(0), b="0F8FAD5BD9CB469FA16570867728950E")],
        attendances=att("ATTENDED", 1, at(0), b="0F8FAD5BD9CB469FA16570867728950E"),
    ),
]
