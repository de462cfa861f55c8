"""The oracle against examples worked by hand from schemas/README.md, so that it can be trusted as a second opinion."""

import json
from typing import Any

import pytest

from tests.support.oracle import NOTHING, Delivery, outcome
from tests.support.oracle.examples_alerts import ALERTS
from tests.support.oracle.examples_counts import BASE, SCANS, SHOWN
from tests.support.oracle.examples_law import CLOCK, HORIZON, IDENTITY, IDS, ORDER
from tests.support.oracle.examples_read_models import SUMMARIES, TALLIES
from tests.support.oracle.law import digest
from tests.support.oracle.make import SCANNER, Example, at, check, erased, ev, missed, scan, upsert
from tests.support.oracle.reading import Fact, fact, instant, written

LAW = [*CLOCK, *IDENTITY, *ORDER, *HORIZON, *IDS, *BASE, *SCANS, *SHOWN]


def name(example: Example) -> str:
    """The sentence, as the test's name."""
    return example.name


@pytest.mark.parametrize("example", LAW, ids=name)
def test_the_oracle_holds_each_sentence_of_the_law(example: Example) -> None:
    """Each sentence of the law, in both orders of arrival."""
    check(example, outcome(example.deliveries, example.bookings, example.rules))
    check(example, outcome(example.deliveries[::-1], example.bookings, example.rules))


@pytest.mark.parametrize("example", [*TALLIES, *SUMMARIES], ids=name)
def test_the_oracle_counts_tallies_and_summaries(example: Example) -> None:
    """Tallies and summaries."""
    check(example, outcome(example.deliveries, example.bookings, example.rules))


@pytest.mark.parametrize(("kind", "example"), ALERTS, ids=[f"{kind}: {one.name}" for kind, one in ALERTS])
def test_the_oracle_raises_each_kind_of_alert(kind: str, example: Example) -> None:
    """Each kind of mismatch, raised and not."""
    found = outcome(example.deliveries, example.bookings, example.rules)
    check(example, found)
    assert (kind in {key[0] for key in found.alerts}) == (kind in {key[0] for key in example.alerts or set()})


@pytest.mark.parametrize("kind", sorted({kind for kind, _ in ALERTS}))
def test_alert_examples_go_both_ways(kind: str) -> None:
    """Every kind has an example that raises it and one that does not."""
    raised = {kind in {key[0] for key in one.alerts or set()} for about, one in ALERTS if about == kind}
    assert raised == {True, False}


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.0000019z", 1),
        ("1970-01-01t00:00:00.9999999Z", 999_999),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:29:30.5-00:31", 30_500_000),
        ("2026-11-22T10:00:00.1Z", 1_795_341_600_100_000),
        ("2000-02-29T00:00:00-00:00", 951_782_400_000_000),
    ],
)
def test_instant_reads_rfc_3339(text: str, micros: int) -> None:
    """RFC 3339 to microseconds; the whole seconds are those of date(1)."""
    assert instant(text) == micros


@pytest.mark.parametrize("text", ["2026-11-22T10:00:00", "2026-11-22", "2026-11-22T10:00:00.Z", "2026-11-22T10:00Z"])
def test_instant_refuses_what_is_not_rfc_3339(text: str) -> None:
    """What is not RFC 3339 with offset is a mistake of the test that gave it."""
    with pytest.raises(ValueError, match="RFC 3339"):
        instant(text)


def test_written_is_cut_at_the_millisecond() -> None:
    """Never rounded up."""
    assert written(1_795_341_600_999_999) == "2026-11-22T10:00:00.999Z"


def test_the_digest_is_that_of_sha256sum() -> None:
    """Against sha256sum(1) of the same lines, cut at 8 bytes."""
    check_in = Fact("b", "s", 0, "/k/é", "1", "attendance.check_in", "", 2, "")
    scanned = Fact("b", "s", 0, "/k/1", "1", "attendance.participant_scanned", "", None, "p1")
    assert digest(check_in).hex() == "a0e69d2124a1121d"
    assert digest(scanned).hex() == "c78d81a2c0a59def"


def test_fields_that_a_type_does_not_have_are_ignored() -> None:
    """They are unknown extra fields: neither content nor effect."""
    extra: dict[str, Any] = {"status": "ATTENDED", "n": 7, "p": "p1", "note": {"a": 1}}
    plain = ev("no_show", at(0))
    assert fact(ev("no_show", at(0), **extra).event) == fact(plain.event)
    assert outcome([ev("no_show", at(0), **extra)], []) == outcome([plain], [])
    assert fact(ev("booking.erased", at(0), s="s1").event) == fact(erased(at(0)).event)


def test_an_alert_shows_the_current_attendance() -> None:
    """An alert shows the attendance now; FREQUENT_NO_SHOWS the booking's newest date."""
    came = ev("check_in", at(9), b="b1", s="x", n=0)
    found = outcome([*missed("s1", "s2", "s3"), came], [])
    assert found.alerts == {
        ("STATUS_COUNT_MISMATCH", "b1", "x"): {
            "openedAt": "2026-11-22T10:09:00.000Z",
            "attendance": found.attendances["b1", "x"],
        },
        ("FREQUENT_NO_SHOWS", "b1", None): {"openedAt": "2026-11-22T10:09:00.000Z", "attendance": None},
    }


def test_opened_at_follows_the_attendance() -> None:
    """It is a function of the state: a newer scan moves it though the alert was open before."""
    before = [scan(one, at(0)) for one in ("p1", "p2", "p3")]
    found = outcome([*before, scan("p1", at(4))], [upsert(people=2)])
    alert = found.alerts["PARTICIPANTS_EXCEEDED", "b1", "s1"]
    assert alert["openedAt"] == "2026-11-22T10:04:00.000Z"
    assert alert["attendance"]["source"] == SCANNER


def test_without_deliveries_and_bookings_there_is_no_outcome() -> None:
    """No deliveries and no bookings, nor an erasure alone, make anything."""
    assert outcome([], []) == NOTHING
    assert outcome([erased(at(0))], [upsert()]).without_devices() == NOTHING


def test_the_oracle_changes_no_delivery() -> None:
    """The oracle reads its deliveries and changes none."""
    deliveries: list[Delivery] = [ev("check_in", at(0), b=" b1 "), scan(" p1", at(1))]
    before = json.dumps(deliveries)
    outcome(deliveries, [])
    assert json.dumps(deliveries) == before
