//! A booking's record in Redis (`worker/read_model/booking_records.py`), and its members in the indexes by booking.

use crate::booking::BookingState;
use crate::change::{Batch, Change};
use crate::project::Entries;
use crate::row::{Reported, write_text};
use crate::summary::Summary;
use std::collections::{BTreeMap, BTreeSet};

/// A booking with more attendances is large: its record has none of them.
const MOST_IN_RECORD: usize = 64;
const ATTENDED: u8 = 0;
/// In place of a status: no index by booking has the attendance as a member; it is not known which one has.
const NO_MEMBER: u8 = 3;
const UNKNOWN: u8 = 255;
const BOOKING_BUCKETS: u32 = 1024;
const FREQUENT: u8 = 1;
const LARGE: u8 = 2;
const WIDE: u8 = 4;
/// Kinds of entries of bookings.
const RECORD: u8 = 0;
const MEMBER: u8 = 1;
/// What becomes of the member that stands for a booking's record in the index of ATTENDED.
const KEEP: u8 = 0;
const ADD: u8 = 1;
const REMOVE: u8 = 2;

/// A mark holds the number of attendees up to here.
const MOST_MARKED: u32 = 63;

/// By id, the mark of each attendance: status, and the number of attendees above it.
type Marks = BTreeMap<[u8; 16], u8>;

fn mark_of(reported: Reported) -> u8 {
    reported.status as u8 | (reported.number.min(MOST_MARKED) as u8) << 2
}

/// Adds the record of a booking that a batch changed, and its members in the indexes by booking.
///
/// Nothing is added if neither the summary nor a mark changed, unless the batch was redelivered.
pub fn project_changed_booking(state: &BookingState, change: &Change, batch: &Batch, entries: &mut Entries) {
    let is_known = batch.is_known && !batch.is_redelivery;
    let mut is_same = state.summary == change.summary && state.frequent == change.frequent.is_some();
    let mut moved = Vec::new();
    for before in &change.sessions {
        let Some(session) = state.sessions.get(before.index) else { continue };
        let mark_before = before.reported.map(mark_of);
        let has_moved = session.reported().map(mark_of) != mark_before;
        is_same &= !has_moved;
        if has_moved || !is_known {
            moved.push((session.id, mark_before));
        }
    }
    if is_same && !batch.is_redelivery {
        return;
    }
    let (now, rate) = (marks(state), rate_of(state.summary));
    let mut ids: BTreeSet<[u8; 16]> = moved.iter().map(|(id, _)| *id).collect();
    if !is_known {
        // only a booking with so many rows can be large, or have been
        if state.sessions.len() > MOST_IN_RECORD {
            ids.extend(state.sessions.iter().map(|session| session.id));
        }
        let record_member = if has_record_member(&now) { ADD } else { REMOVE };
        add(state, &now, ids.into_iter().map(|id| (id, UNKNOWN)), record_member, rate_or_none(rate), entries);
        return;
    }
    let mut before = now.clone();
    for (id, mark) in moved {
        match mark {
            Some(mark) => before.insert(id, mark),
            None => before.remove(&id),
        };
    }
    if is_large(&now) != is_large(&before) {
        ids.extend(now.keys().chain(before.keys()));
    }
    let record_member = match (has_record_member(&now), has_record_member(&before)) {
        (true, false) => ADD,
        (false, true) => REMOVE,
        _ => KEEP,
    };
    let rate_change = if rate == rate_of(change.summary) { 0.0 } else { rate_or_none(rate) };
    let members_before = ids.into_iter().map(|id| (id, member_status(&before, &id)));
    add(state, &now, members_before, record_member, rate_change, entries);
}

/// Adds entries of a booking: its record, and the members of its attendances that move.
///
/// A reader finds each attendance by its member or in the record, perhaps in both, whatever part of this it sees.
///
/// `before`: ids in order, with the status in whose index each was a member.
fn add(
    state: &BookingState,
    now: &Marks,
    before: impl Iterator<Item = ([u8; 16], u8)>,
    record_member: u8,
    rate: f64,
    entries: &mut Entries,
) {
    let moved = before.map(|(id, before)| (id, member_status(now, &id), before)).filter(|(_, now, before)| now != before);
    let (removed, moved): (Vec<_>, Vec<_>) = moved.partition(|(_, now, _)| *now == NO_MEMBER);
    entries.bookings.extend(moved.iter().map(|each| member_entry(state, each)));
    entries.bookings.push(booking_entry(state, &record(state, now), record_member, rate));
    entries.bookings.extend(removed.iter().map(|each| member_entry(state, each)));
}

/// The status in whose index by booking an attendance is a member of its own.
fn member_status(marks: &Marks, id: &[u8; 16]) -> u8 {
    let status = marks.get(id).map(|mark| mark & 3);
    status.filter(|status| *status != ATTENDED || is_large(marks)).unwrap_or(NO_MEMBER)
}

fn is_large(marks: &Marks) -> bool {
    marks.len() > MOST_IN_RECORD
}

/// Whether the index of ATTENDED has a member that stands for those in the record.
fn has_record_member(marks: &Marks) -> bool {
    !is_large(marks) && marks.values().any(|mark| mark & 3 == ATTENDED)
}

fn marks(state: &BookingState) -> Marks {
    state.sessions.iter().filter_map(|each| Some((each.id, mark_of(each.reported()?)))).collect()
}

/// An entry that moves an attendance from the index of one status to that of another.
fn member_entry(state: &BookingState, (id, now, before): &([u8; 16], u8, u8)) -> Vec<u8> {
    let mut out = Vec::with_capacity(state.id.len() + 21);
    out.push(MEMBER);
    write_text(&mut out, &state.id);
    out.extend_from_slice(id);
    out.extend_from_slice(&[*now, *before]);
    out
}

/// An entry that sets the record of a booking.
fn booking_entry(state: &BookingState, record: &[u8], record_member: u8, rate: f64) -> Vec<u8> {
    let mut out = Vec::with_capacity(state.id.len() + record.len() + 16);
    out.push(RECORD);
    out.extend_from_slice(&((crc32fast::hash(&state.id) % BOOKING_BUCKETS) as u16).to_be_bytes());
    write_text(&mut out, &state.id);
    out.push(record_member);
    out.extend_from_slice(&rate.to_be_bytes());
    write_text(&mut out, record);
    out
}

/// The record of a booking; empty if it has no pair.
fn record(state: &BookingState, now: &Marks) -> Vec<u8> {
    let Some(summary) = state.summary else { return Vec::new() };
    let is_large = is_large(now);
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

fn rate_of(summary: Option<Summary>) -> f64 {
    summary.map_or(0.0, |summary| summary.no_show_rate())
}

/// Minus the rate, to set it; 1.0: the booking has none.
fn rate_or_none(rate: f64) -> f64 {
    if rate == 0.0 { 1.0 } else { -rate }
}
