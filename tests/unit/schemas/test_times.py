"""RFC 3339 in and out (schemas/times.py)."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.times import format_exact_time, format_time, parse_time

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NEW_YEAR_2017 = 1_483_228_800_000_000


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.000001Z", 1),
        ("1970-01-01T00:00:00.0000019Z", 1),
        ("1969-12-31T23:59:59.9999999Z", -1),
        ("1970-01-01t00:00:00.5z", 500_000),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T05:30:00+05:30", 0),
        ("1969-12-31T00:01:00-23:59", 0),
        ("2016-12-31T23:59:60Z", NEW_YEAR_2017),
        ("2017-01-01T05:29:60.25+05:30", NEW_YEAR_2017 + 250_000),
        ("2000-02-29T00:00:00Z", 951_782_400_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
        ("0001-01-01T00:00:00+23:59", -62_135_683_140_000_000),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
        ("9999-12-31T23:59:60-23:59", 253_402_387_140_000_000),
    ],
)
def test_parse_reads_rfc_3339(text: str, micros: int) -> None:
    assert parse_time(text) == micros


@pytest.mark.parametrize(
    "text",
    ["", "now", "1795341600", "2026-11-22", "2026-11-22T10:00:00", "2026-11-22 10:00:00Z", "2026-11-22T10:00Z"]
    + ["20261122T100000Z", "2026-W47-7T10:00:00Z", "2026-326T10:00:00Z", "26-11-22T10:00:00Z", "+2026-11-22T10:00:00Z"]
    + ["2026-11-22T10:00:00.Z", "2026-11-22T10:00:00,5Z", "2026-11-22T10:00:00+01", "2026-11-22T10:00:00+0100"]
    + ["2026-11-22T10:00:00+01:00:00", "2026-11-22T10:00:00+24:00", "2026-11-22T10:00:00Z ", " 2026-11-22T10:00:00Z"]
    + ["2026-11-22T10:00:00Z\n", "2026-13-01T00:00:00Z", "2026-02-29T00:00:00Z", "2026-11-22T24:00:00Z"]
    + [
        "2026-11-22T10:60:00Z",
        "2026-11-22T10:00:61Z",
        "0000-01-01T00:00:00Z",
        "٢٠٢٦-11-22T10:00:00Z",
        "2026-11-22T10:00:00−01:00",
    ],
)
def test_parse_refuses_what_is_not_rfc_3339(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - any; whoever calls says what is wrong
        parse_time(text)


@given(st.datetimes(), st.integers(-23 * 60 - 59, 23 * 60 + 59))
def test_parse_agrees_with_datetime_to_the_microsecond(local: datetime, offset: int) -> None:
    zone = timezone(timedelta(minutes=offset))
    expected = (local.replace(tzinfo=UTC) - EPOCH) // timedelta(microseconds=1) - offset * 60_000_000
    text = local.replace(tzinfo=zone).isoformat(timespec="microseconds")
    assert parse_time(text) == expected
    assert parse_time(text.lower()) == expected
    assert parse_time(text.replace("+00:00", "Z")) == expected


@given(st.text())
def test_parse_raises_value_error_or_nothing_else(text: str) -> None:
    try:
        parse_time(text)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (999, "1970-01-01T00:00:00.000Z"),
        (1_999, "1970-01-01T00:00:00.001Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (1_795_341_600_999_999, "2026-11-22T10:00:00.999Z"),
        (-62_135_596_800_000_000, "0001-01-01T00:00:00.000Z"),
        (253_402_300_799_999_999, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_format_is_utc_cut_at_the_millisecond(micros: int, text: str) -> None:
    assert format_time(micros) == text


@pytest.mark.parametrize(
    ("micros", "text"),
    [(-62_135_596_800_000_001, "0001-01-01T00:00:00.000Z"), (253_402_300_800_000_000, "9999-12-31T23:59:59.999Z")],
)
def test_years_that_cannot_be_written_are_shown_at_their_bound(micros: int, text: str) -> None:
    assert format_time(micros) == text


@given(st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999))
def test_parse_undoes_format(micros: int) -> None:
    assert parse_time(format_time(micros)) == micros - micros % 1000
    assert parse_time(format_exact_time(micros)) == micros
