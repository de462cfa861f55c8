//! The binary format of a packed pair, see `worker/read_model/documents.py`.

use crate::bytes::Reader;
use crate::hashing::{guid, guid_bytes};
use crate::row::Reported;
use std::borrow::Cow;
use std::io::Write;

const HAS_ATTENDANCE: u8 = 1;
const LISTED: u8 = 2;
const WIDE: u8 = 16;
const ALWAYS: u8 = 128;
const NOT_SET: u8 = 2;
const MINUTE_WRITTEN: u8 = 1;
const SESSION: u8 = 2;
const BOOKING: u8 = 4;
const SOURCE: u8 = 8;
const LONG: u8 = 16;
const MINUTE_MS: i64 = 60_000;
const MINUTE_US: i64 = 60_000_000;
/// Times from here on are those of long pairs.
const EXACT: i64 = 1 << 52;

/// A window as a contribution has it: its form in the bits of the head, and its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedWindow {
    form: u8,
    bytes: Box<[u8]>,
}

impl PackedWindow {
    /// Start and end in microseconds since the epoch, None where unknown.
    pub fn of(starts: Option<i64>, ends: Option<i64>) -> Self {
        let millis = |moment: Option<i64>| moment.map(|micros| micros.div_euclid(1000));
        let (start, end) = (millis(starts), millis(ends));
        let (form, bytes): (u8, Box<[u8]>) = match (start, end) {
            (None, None) => (0, [].into()),
            (Some(start), Some(end)) => match short(start, end - start) {
                Some((form, bytes)) => (form, bytes),
                None => (3, as_text(Some(start), Some(end))),
            },
            _ => (3, as_text(start, end)),
        };
        Self { form: form << 5, bytes }
    }
}

/// Form and bytes of a window whose start and length are not too large.
fn short(start: i64, length: i64) -> Option<(u8, Box<[u8]>)> {
    if start % MINUTE_MS == 0 && length % MINUTE_MS == 0 {
        let (minutes, long) = (start / MINUTE_MS, length / MINUTE_MS);
        if (0..1 << 27).contains(&minutes) && (0..1 << 13).contains(&long) {
            return Some((1, (minutes << 13 | long).to_be_bytes().get(3..)?.into()));
        }
    }
    if !(0..1 << 48).contains(&start) || !(0..1 << 32).contains(&length) {
        return None;
    }
    let (start, length) = (start.to_be_bytes(), length.to_be_bytes());
    Some((2, [start.get(2..)?, length.get(4..)?].concat().into()))
}

fn as_text(start: Option<i64>, end: Option<i64>) -> Box<[u8]> {
    let mut out = vec![0];
    for (moment, separator) in [(start, ":"), (end, "")] {
        if let Some(millis) = moment {
            // a Vec takes whatever is written
            let _ = write!(out, "{millis}");
        }
        out.extend_from_slice(separator.as_bytes());
    }
    let length = (out.len() - 1) as u8;
    if let Some(first) = out.first_mut() {
        *first = length;
    }
    out.into()
}

/// Appends what a pair adds to its session's tally. `window`: None if the booking does not list the session.
pub fn write_contribution(out: &mut Vec<u8>, reported: Option<Reported>, expected: u32, window: Option<&PackedWindow>) {
    let (status, number) = reported.map_or((NOT_SET, 0), |each| (each.status as u8, each.number));
    let mut head = ALWAYS | status << 2 | window.map_or(0, |window| LISTED | window.form);
    if reported.is_some() {
        head |= HAS_ATTENDANCE;
    }
    if number > 15 || expected > 15 {
        out.push(head | WIDE);
        out.extend_from_slice(&number.to_be_bytes());
        out.extend_from_slice(&expected.to_be_bytes());
    } else {
        out.extend_from_slice(&[head, (number << 4 | expected) as u8]);
    }
    if let Some(window) = window {
        out.extend_from_slice(&window.bytes);
    }
}

/// What a pair says of its attendance, beside its contribution.
pub struct Newest<'a> {
    /// When its newest event is effective, microseconds.
    pub updated: i64,
    pub source: &'a [u8],
    pub minute: u32,
    pub is_attended: bool,
}

/// Completes a packed pair after its contribution; without an attendance the session is only listed.
pub fn write_rest(out: &mut Vec<u8>, session: &[u8], booking: &[u8], newest: Option<Newest<'_>>) {
    let (session_id, booking_id) = (guid_bytes(session), guid_bytes(booking));
    let source = newest.as_ref().map_or(&b""[..], |newest| newest.source);
    let source_id = guid_bytes(source);
    let updated = newest.as_ref().map_or(0, |newest| newest.updated);
    let longest = [(&session_id, session), (&booking_id, booking)].iter().map(|(id, text)| id.map_or(text.len(), |_| 16)).max();
    let is_long = !(0..EXACT).contains(&updated) || longest > Some(255);
    let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    let tags_at = out.len();
    out.push(0);
    let mut tags = flag(session_id.is_some(), SESSION)
        | flag(booking_id.is_some(), BOOKING)
        | flag(source_id.is_some(), SOURCE)
        | flag(is_long, LONG);
    if let Some(newest) = newest {
        if is_long {
            out.extend_from_slice(&crate::order::time_bytes(updated));
        } else {
            out.extend(updated.to_be_bytes().into_iter().skip(1));
        }
        let usual = if newest.is_attended { updated.div_euclid(MINUTE_US) } else { 0 };
        if is_long || i64::from(newest.minute) != usual {
            tags |= MINUTE_WRITTEN;
            out.extend_from_slice(&newest.minute.to_be_bytes());
        }
    }
    for (id, text) in [(session_id, session), (booking_id, booking)] {
        match id {
            Some(id) => out.extend_from_slice(&id),
            None => {
                let length = (text.len() as u16).to_be_bytes();
                out.extend(length.into_iter().skip(usize::from(!is_long)));
                out.extend_from_slice(text);
            }
        }
    }
    match source_id {
        Some(id) => out.extend_from_slice(&id),
        None => out.extend_from_slice(source),
    }
    if let Some(byte) = out.get_mut(tags_at) {
        *byte = tags;
    }
}

/// What a pair adds to its session.
pub struct Contribution<'a> {
    pub status: u8,
    pub number: u32,
    pub expected: i64,
    pub has_attendance: bool,
    /// Its form and bytes.
    pub window: (u8, &'a [u8]),
}

impl<'a> Contribution<'a> {
    /// The contribution at the begin of a pair, and what follows it.
    pub fn parse(packed: &'a [u8]) -> Option<(Self, Reader<'a>)> {
        let mut reader = Reader::new(packed);
        let head = reader.u8()?;
        let (number, expected) = if head & WIDE > 0 {
            (reader.u32()?, reader.u32()?)
        } else {
            let both = reader.u8()?;
            (u32::from(both >> 4), u32::from(both & 15))
        };
        let form = head >> 5 & 3;
        let size = match form {
            0 => 0,
            1 => 5,
            2 => 10,
            _ => usize::from(reader.u8()?),
        };
        let window = (form, reader.take(size)?);
        let has_attendance = head & HAS_ATTENDANCE > 0;
        Some((Self { status: head >> 2 & 3, number, expected: i64::from(expected), has_attendance, window }, reader))
    }
}

/// sessionId and bookingId of a pair, given what follows its contribution.
pub fn names<'a>(has_attendance: bool, mut rest: Reader<'a>) -> Option<[Cow<'a, [u8]>; 2]> {
    let tags = rest.u8()?;
    let is_long = tags & LONG > 0;
    if has_attendance {
        rest.take(if is_long { 8 } else { 7 } + if tags & MINUTE_WRITTEN > 0 { 4 } else { 0 })?;
    }
    let mut name = |tag: u8| -> Option<Cow<'a, [u8]>> {
        if tags & tag > 0 {
            let mut text = Vec::with_capacity(36);
            guid(&mut text, rest.array()?);
            return Some(text.into());
        }
        let length = if is_long { usize::from(rest.u16()?) } else { usize::from(rest.u8()?) };
        rest.take(length).map(Cow::Borrowed)
    };
    Some([name(SESSION)?, name(BOOKING)?])
}

#[cfg(test)]
mod tests {
    use super::PackedWindow;

    /// Form and bytes.
    fn packed(starts: Option<i64>, ends: Option<i64>) -> (u8, Vec<u8>) {
        let window = PackedWindow::of(starts, ends);
        (window.form >> 5, window.bytes.to_vec())
    }

    #[test]
    fn windows_take_the_shortest_form() {
        const MINUTE: i64 = 60_000_000;
        assert_eq!(packed(None, None), (0, vec![]));
        assert_eq!(packed(Some(0), Some(8191 * MINUTE)), (1, vec![0, 0, 0, 31, 255]));
        assert_eq!(packed(Some(((1 << 27) - 1) * MINUTE), Some(((1 << 27) - 1) * MINUTE)), (1, vec![255, 255, 255, 224, 0]));
        assert_eq!(packed(Some(0), Some(8192 * MINUTE)), (2, vec![0, 0, 0, 0, 0, 0, 29, 76, 0, 0]));
        assert_eq!(packed(Some(1_999), Some(2_000)), (2, vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 1]));
        assert_eq!(packed(Some(-1), Some(0)), (3, b"\x04-1:0".to_vec()));
        assert_eq!(packed(Some(1_000), Some(0)), (3, b"\x031:0".to_vec()));
        assert_eq!(packed(Some(0), Some(1000 << 32)), (3, b"\x0c0:4294967296".to_vec()));
        assert_eq!(packed(Some(60_000), None), (3, b"\x0360:".to_vec()));
        assert_eq!(packed(None, Some(60_000)), (3, b"\x03:60".to_vec()));
    }
}
