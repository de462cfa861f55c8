//! A session's row: maxima in the law's order, and their bytes in tables and changelogs (`worker/domain/row_codec.py`).

use crate::bytes::Reader;
use crate::event::Status;
use crate::order::{NEVER, OrderKey, effective_time};

pub const FORMAT: u8 = 3;
const WRITTEN_OUT: u8 = 15;
const MINUTE: i64 = 60_000_000;

/// The newest event of some kind: its order key and its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark<'a> {
    pub key: OrderKey,
    pub source: &'a [u8],
}

impl Mark<'_> {
    /// When the event is effective, microseconds.
    pub fn effective_time(&self) -> i64 {
        effective_time(&self.key)
    }
}

/// A status with its number of attendees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    pub status: Status,
    pub number: u32,
}

impl Reported {
    /// Five bytes: status, number.
    pub fn write(self, out: &mut Vec<u8>) {
        out.push(self.status as u8);
        out.extend_from_slice(&self.number.to_be_bytes());
    }
}

/// The newest counting check_in, no_show, set or cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base<'a> {
    pub mark: Mark<'a>,
    pub reported: Reported,
}

/// One (booking, session). Marks not later than the horizon, and reports older than `overriding`, are None.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Latest effective time of an `attendance.deleted`, microseconds.
    pub horizon: i64,
    pub base: Option<Base<'a>>,
    pub newest: Option<Mark<'a>>,
    /// Newest ATTENDED report (check_in or scan).
    pub attended: Option<Mark<'a>>,
    /// Newest NOT_ATTENDED report (no_show).
    pub missed: Option<Mark<'a>>,
    /// Newest set or cleared, which overrides the reports before it.
    pub overriding: Option<Mark<'a>>,
}

impl<'a> Row<'a> {
    pub const NOTHING: Self = Self { horizon: NEVER, base: None, newest: None, attended: None, missed: None, overriding: None };

    fn marks(&self) -> [Option<Mark<'a>>; 5] {
        [self.base.map(|base| base.mark), self.newest, self.attended, self.missed, self.overriding]
    }

    /// The attendance with so many scanned participants; None: there is none.
    pub fn reported(&self, participants: usize) -> Option<Reported> {
        let base = self.base.map(|base| base.reported);
        if participants == 0 {
            return base;
        }
        let scanned = u32::try_from(participants).unwrap_or(u32::MAX);
        let stated = base.filter(|each| each.status == Status::Attended).map_or(0, |each| each.number);
        Some(Reported { status: Status::Attended, number: scanned.max(stated) })
    }

    /// The minute in which the people of an ATTENDED attendance arrived, in minutes since the epoch; 0 if it is not ATTENDED.
    pub fn arrival_minute(&self, reported: Option<Reported>) -> u32 {
        if reported.is_none_or(|each| each.status != Status::Attended) {
            return 0;
        }
        let mark = self.attended.or(self.base.map(|base| base.mark));
        let minute = mark.map_or(1, |mark| mark.effective_time().div_euclid(MINUTE));
        u32::try_from(minute.max(1)).unwrap_or(u32::MAX)
    }

    /// The newest ATTENDED report and the newest NOT_ATTENDED report, where there are both.
    pub fn opposed_reports(&self) -> Option<(Mark<'a>, Mark<'a>)> {
        self.attended.zip(self.missed)
    }

    /// The bytes of the row, with the mask of alerts that were ever open. Marks of the same event are written once.
    pub fn encode(&self, ever_opened: u8) -> Box<[u8]> {
        let mut out = Vec::with_capacity(160);
        out.extend_from_slice(&[FORMAT, ever_opened]);
        out.extend_from_slice(&self.horizon.to_be_bytes());
        let (marks, mut codes, mut body) = (self.marks(), 0u32, Vec::with_capacity(128));
        for (index, mark) in marks.iter().enumerate() {
            let first = marks.iter().take(index).position(|each| each == mark);
            let code = match (mark, first) {
                (None, _) => 0,
                (Some(_), Some(first)) => first as u8 + 1,
                (Some(mark), None) => {
                    body.extend_from_slice(&mark.key);
                    write_text(&mut body, mark.source);
                    WRITTEN_OUT
                }
            };
            codes = codes << 4 | u32::from(code);
        }
        out.extend(codes.to_be_bytes().into_iter().skip(1));
        self.base.map_or(Reported { status: Status::Attended, number: 0 }, |base| base.reported).write(&mut out);
        out.append(&mut body);
        out.into_boxed_slice()
    }

    /// (row, mask of alerts that were ever open); None: these are no bytes of a row.
    pub fn decode(packed: &'a [u8]) -> Option<(Self, u8)> {
        let mut reader = Reader::new(packed);
        if reader.u8()? != FORMAT {
            return None;
        }
        let (ever_opened, horizon) = (reader.u8()?, reader.i64()?);
        let codes = u32::from_be_bytes([0, reader.u8()?, reader.u8()?, reader.u8()?]);
        let reported = Reported { status: Status::of_code(reader.u8()?)?, number: reader.u32()? };
        let mut marks: [Option<Mark<'a>>; 5] = [None; 5];
        for index in 0..marks.len() {
            let mark = match (codes >> (16 - 4 * index) & 15) as u8 {
                0 => None,
                WRITTEN_OUT => Some(Mark { key: *reader.array()?, source: reader.text()? }),
                code => *marks.get(usize::from(code) - 1)?,
            };
            *marks.get_mut(index)? = mark;
        }
        let [base, newest, attended, missed, overriding] = marks;
        let base = base.map(|mark| Base { mark, reported });
        Some((Self { horizon, base, newest, attended, missed, overriding }, ever_opened))
    }
}

/// The bytes of a row with these alerts added to those that were ever open.
pub fn add_ever_opened(packed: &mut [u8], mask: u8) {
    if let Some(ever_opened) = packed.get_mut(1) {
        *ever_opened |= mask;
    }
}

/// The mask of alerts that were ever open.
pub fn ever_opened(packed: &[u8]) -> u8 {
    packed.get(1).copied().unwrap_or(0)
}

/// Appends a text after its length in two bytes.
pub fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text);
}
