//! Booking records: a row of the table `bookings` (`worker/domain/rows.py`), and what a booking says in it.

use crate::bytes::Reader;
use crate::document::PackedWindow;
use crate::hashing::{hex, sha256};
use crate::order::NEVER;
use crate::row::{FORMAT, write_text};
use std::borrow::Cow;

const KNOWN: u8 = 1;
const WALK_INS: u8 = 2;
const CANCELED: u8 = 4;
const LISTS: u8 = 8;

/// The position of a record among the records of its booking: the greatest (received, offset) is current.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub received: i64,
    /// Where it was first appended to its partition.
    pub offset: i64,
    /// Where it was read.
    pub read_at: i64,
}

impl Place {
    pub const NOWHERE: Self = Self { received: NEVER, offset: -1, read_at: -1 };

    /// What orders records; where a record was read does not.
    pub fn order(&self) -> (i64, i64) {
        (self.received, self.offset)
    }
}

/// When a session takes place as one booking lists it: microseconds since the epoch, None where unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    pub starts: Option<i64>,
    pub ends: Option<i64>,
}

impl Window {
    /// From the earlier start to the later end, as far as they are known.
    pub fn widened(self, other: Self) -> Self {
        let starts = self.starts.into_iter().chain(other.starts).min();
        Self { starts, ends: self.ends.max(other.ends) }
    }
}

/// A session that a booking lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub session: Box<[u8]>,
    pub window: Window,
    pub packed: PackedWindow,
}

impl Listed {
    fn new(session: &[u8], window: Window) -> Self {
        Self { session: session.into(), window, packed: PackedWindow::of(window.starts, window.ends) }
    }
}

/// How sessions are ordered: by their start, those without one last, then by id.
pub type StartOrder<'a> = (bool, i64, &'a [u8]);

pub fn start_order(session: &[u8], starts: Option<i64>) -> StartOrder<'_> {
    (starts.is_none(), starts.unwrap_or(0), session)
}

/// Reference data: the latest state of a booking in the booking system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booking {
    pub participants: u32,
    pub walk_ins_allowed: bool,
    pub canceled: bool,
    /// In the order of `start_order`; None: the booking does not list its sessions.
    pub sessions: Option<Vec<Listed>>,
    pub time: i64,
    /// Indexes of `sessions` in the order of their ids.
    by_id: Vec<u32>,
    /// The bytes that say all of this in a row: identifies the record in the ids of alerts.
    content: Box<[u8]>,
}

impl Booking {
    pub fn listed(&self) -> &[Listed] {
        self.sessions.as_deref().unwrap_or_default()
    }

    /// A session as the booking lists it; None: it does not.
    pub fn find(&self, session: &[u8]) -> Option<&Listed> {
        let listed = self.listed();
        let found = self.by_id.binary_search_by(|index| {
            listed.get(*index as usize).map_or(std::cmp::Ordering::Less, |each| each.session.as_ref().cmp(session))
        });
        let index = *self.by_id.get(found.ok()?)?;
        listed.get(index as usize)
    }

    /// Expected participants (0 if canceled), and the session as it is listed.
    pub fn listing(&self, session: &[u8]) -> (u32, Option<&Listed>) {
        if self.canceled { (0, None) } else { (self.participants, self.find(session)) }
    }

    /// The listed sessions in the order of their ids.
    pub fn by_id(&self) -> impl Iterator<Item = &Listed> {
        self.by_id.iter().filter_map(|index| self.listed().get(*index as usize))
    }

    /// Identifies the record in the ids of alerts, see `record_digest` in `worker/domain/alert_events.py`.
    pub fn digest(&self, booking_id: &[u8]) -> Vec<u8> {
        let mut text = Vec::with_capacity(booking_id.len() + self.content.len() + 2);
        write_text(&mut text, booking_id);
        text.extend_from_slice(&self.content);
        let mut out = Vec::with_capacity(64);
        hex(&mut out, &sha256::<32>(&text));
        out
    }
}

/// What a booking says, as bytes (see `worker/domain/booking_content.py`).
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    pub fields: Vec<u8>,
    pub listed: Vec<u8>,
}

impl Content {
    /// Of a known booking; `sessions`: those that it lists, in any order; None: it does not list them.
    pub fn of(
        participants: u32,
        walk_ins_allowed: bool,
        is_canceled: bool,
        sessions: Option<Vec<(Cow<'_, str>, Window)>>,
        time: i64,
    ) -> Self {
        let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        let flags = KNOWN | flag(walk_ins_allowed, WALK_INS) | flag(is_canceled, CANCELED) | flag(sessions.is_some(), LISTS);
        let mut sessions = sessions.unwrap_or_default();
        sessions.sort_by(|(one, at), (other, other_at)| {
            start_order(one.as_bytes(), at.starts).cmp(&start_order(other.as_bytes(), other_at.starts))
        });
        let mut fields = Vec::with_capacity(15);
        fields.push(flags);
        fields.extend_from_slice(&participants.to_be_bytes());
        fields.extend_from_slice(&time.to_be_bytes());
        fields.extend_from_slice(&(sessions.len() as u16).to_be_bytes());
        let mut listed = Vec::with_capacity(54 * sessions.len());
        for (name, window) in &sessions {
            listed.extend_from_slice(&(name.len() as u16).to_be_bytes());
            for moment in [window.starts, window.ends] {
                listed.extend_from_slice(&moment.unwrap_or(NEVER).to_be_bytes());
            }
            listed.extend_from_slice(name.as_bytes());
        }
        Self { fields, listed }
    }
}

/// A booking record as its row holds it.
#[derive(Debug)]
pub struct BookingRecord {
    pub place: Place,
    /// None: the record makes the booking unknown.
    pub booking: Option<Booking>,
    /// What follows the place in its row, but for the sessions whose removal may not be projected yet.
    head: [u8; 15],
    listed: Box<[u8]>,
    original: Box<[u8]>,
}

/// A record, and the sessions that earlier records listed and whose removal may not be projected yet.
pub fn decode(packed: &[u8]) -> Option<(BookingRecord, Vec<Box<[u8]>>)> {
    let mut reader = Reader::new(packed);
    if reader.u8()? != FORMAT {
        return None;
    }
    let place = Place { received: reader.i64()?, offset: reader.i64()?, read_at: reader.i64()? };
    // flags (1), participants (4), time (8), number of listed sessions (2)
    let head: [u8; 15] = *reader.array()?;
    let mut fields = Reader::new(&head);
    let (flags, participants, time, count) = (fields.u8()?, fields.u32()?, fields.i64()?, fields.u16()?);
    let (removed_count, size) = (reader.u16()?, reader.u32()?);
    let mut removed = Vec::with_capacity(usize::from(removed_count));
    for _ in 0..removed_count {
        removed.push(reader.text()?.into());
    }
    let listed = reader.take(size as usize)?;
    let booking = if flags & KNOWN == 0 {
        None
    } else {
        let sessions = if flags & LISTS == 0 { None } else { Some(listed_sessions(listed, count)?) };
        let mut by_id: Vec<u32> = (0..sessions.as_ref().map_or(0, Vec::len) as u32).collect();
        let name = |index: &u32| sessions.as_ref().and_then(|each| each.get(*index as usize)).map(|each| &each.session);
        by_id.sort_unstable_by(|one, other| name(one).cmp(&name(other)));
        Some(Booking {
            participants,
            walk_ins_allowed: flags & WALK_INS != 0,
            canceled: flags & CANCELED != 0,
            sessions,
            time,
            by_id,
            content: [head.as_slice(), listed].concat().into(),
        })
    };
    let original = reader.rest().into();
    Some((BookingRecord { place, booking, head, listed: listed.into(), original }, removed))
}

fn listed_sessions(packed: &[u8], count: u16) -> Option<Vec<Listed>> {
    let mut reader = Reader::new(packed);
    let known = |micros: i64| (micros != NEVER).then_some(micros);
    let mut listed = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        let length = reader.u16()?;
        let window = Window { starts: known(reader.i64()?), ends: known(reader.i64()?) };
        listed.push(Listed::new(reader.take(usize::from(length))?, window));
    }
    listed.sort_by(|one, other| {
        start_order(&one.session, one.window.starts).cmp(&start_order(&other.session, other.window.starts))
    });
    Some(listed)
}

impl BookingRecord {
    /// The row of `bookings` that holds the record.
    pub fn encode(&self, removed: &[Box<[u8]>]) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.listed.len() + self.original.len());
        out.push(FORMAT);
        for part in [self.place.received, self.place.offset, self.place.read_at] {
            out.extend_from_slice(&part.to_be_bytes());
        }
        out.extend_from_slice(&self.head);
        out.extend_from_slice(&(removed.len() as u16).to_be_bytes());
        out.extend_from_slice(&(self.listed.len() as u32).to_be_bytes());
        for session in removed {
            write_text(&mut out, session);
        }
        out.extend_from_slice(&self.listed);
        out.extend_from_slice(&self.original);
        out
    }
}
