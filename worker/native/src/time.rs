//! RFC 3339 and microseconds since the epoch, UTC.
//!
//! Own code instead of a library, since each time must be what `schemas.times` makes of it, to the byte, and since each event
//! has one: it takes a tenth of the decoding of an event.

use std::io::Write;

const MICROS: i64 = 1_000_000;
const DAY: i64 = 86_400;
/// The first and the last time that RFC 3339 can write.
pub const FIRST: i64 = -62_135_596_800_000_000;
pub const LAST: i64 = 253_402_300_799_999_999;

/// Reads `YYYY-MM-DDTHH:MM:SS[.digits](Z|+HH:MM|-HH:MM)`; None: another form, or a time that does not exist.
///
/// Leap seconds, lower-case letters and the years 1 and 9999, which an offset may leave, are left to `schemas.times`.
pub fn parse(text: &[u8]) -> Option<i64> {
    let (head, tail) = text.split_at_checked(19)?;
    let &[y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1, b'T', h0, h1, b':', n0, n1, b':', s0, s1] = head else {
        return None;
    };
    let year = two(y0, y1)? * 100 + two(y2, y3)?;
    let (month, day) = (two(m0, m1)?, two(d0, d1)?);
    let (hour, minute, second) = (two(h0, h1)?, two(n0, n1)?, two(s0, s1)?);
    if !(2..=9998).contains(&year) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (fraction, zone) = split_fraction(tail)?;
    let days = days_of(year, month, day)?;
    let seconds = days * DAY + hour * 3600 + minute * 60 + second - offset(zone)?;
    Some(seconds * MICROS + fraction)
}

/// A record's timestamp (milliseconds) in microseconds; one beyond the years 1-9999 counts as the first or last of them.
pub fn of_timestamp(millis: i64) -> i64 {
    millis.clamp(FIRST / 1000, LAST.div_euclid(1000)) * 1000
}

/// Appends the time in UTC, truncated to milliseconds, with `Z`; one beyond the years 1-9999 becomes the first or last one.
pub fn format(out: &mut Vec<u8>, micros: i64) {
    let micros = micros.clamp(FIRST, LAST);
    let (seconds, rest) = (micros.div_euclid(MICROS), micros.rem_euclid(MICROS));
    let (year, month, day) = date_of(seconds.div_euclid(DAY));
    let second = seconds.rem_euclid(DAY);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    // a Vec takes whatever is written
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{:03}Z", second % 60, rest / 1000);
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    let digit = |each: u8| each.is_ascii_digit().then(|| i64::from(each - b'0'));
    Some(digit(tens)? * 10 + digit(ones)?)
}

/// The fraction in microseconds, finer digits truncated, and what follows it.
fn split_fraction(tail: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = tail.strip_prefix(b".") else {
        return Some((0, tail));
    };
    let length = digits.iter().take_while(|each| each.is_ascii_digit()).count();
    if length == 0 {
        return None;
    }
    let (digits, zone) = digits.split_at(length);
    let padded = digits.iter().copied().chain(std::iter::repeat(b'0')).take(6);
    Some((padded.fold(0, |sum, each| sum * 10 + i64::from(each - b'0')), zone))
}

/// Seconds of an offset from UTC.
fn offset(zone: &[u8]) -> Option<i64> {
    match *zone {
        [b'Z'] => Some(0),
        [sign @ (b'+' | b'-'), h0, h1, b':', m0, m1] => {
            let (hours, minutes) = (two(h0, h1)?, two(m0, m1)?);
            let seconds = hours * 3600 + minutes * 60;
            (hours < 24 && minutes < 60).then_some(if sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

/// Days since the epoch of a date of the proleptic Gregorian calendar, counted in years that begin in March.
fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    Some(365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day - 719_469)
}

/// The inverse of `days_of`.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) = (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn formatted(micros: i64) -> String {
        let mut out = Vec::new();
        format(&mut out, micros);
        String::from_utf8(out).unwrap_or_default()
    }

    #[test]
    fn times_are_read_and_written() {
        assert_eq!(parse(b"1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(parse(b"2026-11-22T10:00:00.1234567+01:30"), Some(1_795_336_200_123_456));
        assert_eq!(formatted(1_795_336_200_123_456), "2026-11-22T08:30:00.123Z");
        assert_eq!(formatted(i64::MIN), "0001-01-01T00:00:00.000Z");
        assert_eq!(formatted(i64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(formatted(-1), "1969-12-31T23:59:59.999Z");
    }

    #[test]
    fn every_day_is_read_as_it_is_written() {
        for day in (FIRST / MICROS / DAY + 400..LAST / MICROS / DAY - 400).step_by(7) {
            let micros = day * DAY * MICROS + 12_345_678_000;
            assert_eq!(parse(formatted(micros).as_bytes()), Some(micros));
        }
    }

    #[test]
    fn other_forms_are_left_to_the_explaining_decoder() {
        for text in [
            "2026-11-22t10:00:00Z",
            "2026-11-22T10:00:60Z",
            "2026-02-29T10:00:00Z",
            "2026-11-22T10:00:00",
            "2026-11-22T10:00:00.Z",
            "2026-11-22T10:00:00+24:00",
            "0001-01-01T00:00:00Z",
            "9999-12-31T23:59:59Z",
            "2026-11-22T10:00:00Zz",
            "",
            "2026-11-2",
            "2026-00-22T10:00:00Z",
            "2026-13-22T10:00:00Z",
            "2026-11-00T10:00:00Z",
            "２０２６-11-22T10:00:00Z",
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
