//! A booking's record in Redis (`worker/read_model/booking_records.py`), and its places in the index by booking.

use crate::booking::BookingState;
use crate::change::{Batch, Change};
use crate::project::Entries;
use crate::row::{Reported, write_text};
use crate::summary::Summary;
use std::collections::BTreeMap;

/// A booking with more attendances is large: they are in the index by booking instead of the record.
const MOST_IN_RECORD: usize = 64;
/// The mark where there is no attendance, and where it is not known whether there is one.
const NO_ATTENDANCE: u8 = 3;
const UNKNOWN: u8 = 255;
const BOOKING_BUCKETS: u32 = 1024;
const FREQUENT: u8 = 1;
const LARGE: u8 = 2;
const WIDE: u8 = 4;
/// Kinds of entries of bookings.
const RECORD: u8 = 0;
const INDEXED: u8 = 1;
/// How a booking moves in the index of a status.
const LIST: u8 = 1;
const UNLIST: u8 = 2;

/// A mark holds the number of attendees up to here.
const MOST_MARKED: u32 = 63;

/// By id, the mark of each attendance: status, and the number of attendees above it.
type Marks = BTreeMap<[u8; 16], u8>;

fn mark_of(reported: Reported) -> u8 {
    reported.status as u8 | (reported.number.min(MOST_MARKED) as u8) << 2
}

/// Adds the record of a booking that a batch changed, and its places in the index by booking.
///
/// Nothing is added if neither the summary nor a mark changed, unless the batch was redelivered.
pub fn project_changed_booking(state: &BookingState, change: &Change, batch: &Batch, entries: &mut Entries) {
    let mut moved = Vec::new();
    for before in &change.sessions {
        let Some(session) = state.sessions.get(before.index) else { continue };
        let mark_before = before.reported.map(mark_of);
        if session.reported().map(mark_of) != mark_before {
            moved.push((session.id, mark_before));
        }
    }
    let was_frequent = change.frequent.is_some();
    let is_same = moved.is_empty() && state.summary == change.summary && state.frequent == was_frequent;
    if is_same && !batch.is_redelivery {
        return;
    }
    let now = marks(state);
    if !batch.is_known || batch.is_redelivery {
        project_whatever_redis_holds(state, &now, entries);
        return;
    }
    let mut before = now.clone();
    for (id, mark) in &moved {
        match mark {
            Some(mark) => before.insert(*id, *mark),
            None => before.remove(id),
        };
    }
    let (rate, rate_before) = (rate_of(state.summary), rate_of(change.summary));
    let rate_change = if rate == rate_before { 0.0 } else { rate_or_none(rate) };
    let (is_large, was_large) = (now.len() > MOST_IN_RECORD, before.len() > MOST_IN_RECORD);
    // a reader finds each attendance in the record or in the index, whatever part of this it sees
    if is_large && was_large {
        let mut ids: Vec<[u8; 16]> = moved.iter().map(|(id, _)| *id).collect();
        ids.sort_unstable();
        index(state, ids.iter(), &now, |id| before.get(id).copied().unwrap_or(NO_ATTENDANCE), entries);
    } else if is_large {
        index(state, now.keys(), &now, |_| NO_ATTENDANCE, entries);
    }
    let listed = listed(present(&now), present(&before));
    entries.bookings.push(booking_entry(state, &record(state, &now), listed, rate_change));
    if was_large && !is_large {
        let mark_before = |id: &[u8; 16]| before.get(id).copied().unwrap_or(NO_ATTENDANCE);
        index(state, before.keys(), &Marks::new(), mark_before, entries);
    }
}

fn project_whatever_redis_holds(state: &BookingState, now: &Marks, entries: &mut Entries) {
    let is_large = now.len() > MOST_IN_RECORD;
    // only a booking with so many rows can be large, or have been
    let mut ids: Vec<[u8; 16]> = Vec::new();
    if state.sessions.len() > MOST_IN_RECORD {
        ids.extend(state.sessions.iter().map(|session| session.id));
        ids.sort_unstable();
    }
    if is_large {
        index(state, ids.iter(), now, |_| UNKNOWN, entries);
    }
    let present = present(now);
    let listed = listed(present, [true; 3]) | listed(present, [false; 3]);
    let rate = rate_or_none(rate_of(state.summary));
    entries.bookings.push(booking_entry(state, &record(state, now), listed, rate));
    if !is_large {
        index(state, ids.iter(), &Marks::new(), |_| UNKNOWN, entries);
    }
}

fn marks(state: &BookingState) -> Marks {
    state.sessions.iter().filter_map(|each| Some((each.id, mark_of(each.reported()?)))).collect()
}

/// Moves attendances of a large booking in the index.
fn index<'a>(
    state: &BookingState,
    ids: impl Iterator<Item = &'a [u8; 16]>,
    now: &Marks,
    before: impl Fn(&[u8; 16]) -> u8,
    entries: &mut Entries,
) {
    for id in ids {
        let mut out = Vec::with_capacity(state.id.len() + 21);
        out.push(INDEXED);
        write_text(&mut out, &state.id);
        out.extend_from_slice(id);
        out.push(now.get(id).copied().unwrap_or(NO_ATTENDANCE));
        out.push(before(id));
        entries.bookings.push(out);
    }
}

/// An entry that sets the record of a booking.
fn booking_entry(state: &BookingState, record: &[u8], listed: u8, rate: f64) -> Vec<u8> {
    let mut out = Vec::with_capacity(state.id.len() + record.len() + 16);
    out.push(RECORD);
    out.extend_from_slice(&((crc32fast::hash(&state.id) % BOOKING_BUCKETS) as u16).to_be_bytes());
    write_text(&mut out, &state.id);
    out.push(listed);
    out.extend_from_slice(&rate.to_be_bytes());
    write_text(&mut out, record);
    out
}

/// The record of a booking; empty if it has no pair.
fn record(state: &BookingState, now: &Marks) -> Vec<u8> {
    let Some(summary) = state.summary else { return Vec::new() };
    let is_large = now.len() > MOST_IN_RECORD;
    let counts = [summary.attended, summary.not_attended, summary.not_set, summary.longest_run];
    let is_wide = counts.iter().any(|count| *count > u32::from(u8::MAX));
    let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
    let mut out = Vec::with_capacity(24 + 17 * now.len().min(MOST_IN_RECORD));
    out.push(flag(state.frequent, FREQUENT) | flag(is_large, LARGE) | flag(is_wide, WIDE));
    for count in counts {
        if is_wide { out.extend_from_slice(&count.to_be_bytes()) } else { out.push(count as u8) }
    }
    for (id, mark) in now.iter().filter(|_| !is_large) {
        out.push(*mark);
        out.extend_from_slice(id);
    }
    out
}

/// The statuses whose index lists the booking itself; none if it is large.
fn present(marks: &Marks) -> [bool; 3] {
    let mut found = [false; 3];
    if marks.len() <= MOST_IN_RECORD {
        for mark in marks.values() {
            if let Some(slot) = found.get_mut(usize::from(mark & 3)) {
                *slot = true;
            }
        }
    }
    found
}

/// How the booking moves in the indexes of the statuses: two bits each.
fn listed(now: [bool; 3], before: [bool; 3]) -> u8 {
    now.into_iter().zip(before).enumerate().fold(0, |bits, (status, (now, before))| match (now, before) {
        (true, false) => bits | LIST << (2 * status),
        (false, true) => bits | UNLIST << (2 * status),
        _ => bits,
    })
}

fn rate_of(summary: Option<Summary>) -> f64 {
    summary.map_or(0.0, |summary| summary.no_show_rate())
}

/// Minus the rate, to set it; 1.0: the booking has none.
fn rate_or_none(rate: f64) -> f64 {
    if rate == 0.0 { 1.0 } else { -rate }
}
