//! From the change of a booking to its rows, and to what is written for readers (`worker/stream/projection.py`).

use crate::booking::BookingState;
use crate::change::{Batch, Change, SessionBefore};
use crate::document::{Newest, write_contribution, write_rest};
use crate::event::Status;
use crate::hashing::{ATTENDANCES, uuid5};
use crate::order::NEVER;
use crate::reference::Booking;
use crate::row::{FORMAT, Reported, Row};

/// (key, value) of a row; without a value it is deleted.
pub type Record = (Vec<u8>, Option<Vec<u8>>);

/// The entries of a batch for Redis, each packed as `apply.lua` takes it.
#[derive(Debug, Default)]
pub struct Entries {
    pub pairs: Vec<Vec<u8>>,
    pub bookings: Vec<Vec<u8>>,
    pub alerts: Vec<Vec<u8>>,
}

/// Kinds of pairs, see `apply.lua`.
const READ: u8 = 0;
const SAME: u8 = 1;
const MOVED: u8 = 2;
const ARRIVED: u8 = 3;

/// The rows of `attendance` that a batch changed, those that are deleted last.
pub fn changed_rows(state: &BookingState, change: &Change) -> Vec<Record> {
    let key = |parts: &[&[u8]]| [&[&state.id, &b"\0"[..]], parts].concat().concat();
    let mut rows = Vec::with_capacity(change.sessions.len());
    if state.erasure_horizon != change.erasure_horizon || state.ever_frequent != change.ever_frequent {
        let mut value = vec![FORMAT, u8::from(state.ever_frequent)];
        value.extend_from_slice(&state.erasure_horizon.to_be_bytes());
        rows.push((key(&[]), Some(value)));
    }
    for before in &change.sessions {
        if let Some(session) = state.sessions.get(before.index).filter(|each| each.row != before.row) {
            rows.push((key(&[&session.name]), Some(session.row.to_vec())));
        }
    }
    for ((index, participant), scan) in &change.scans {
        if let Some(session) = state.sessions.get(*index) {
            let value = scan.map(|order| [&[FORMAT], &order[..]].concat());
            rows.push((key(&[&session.name, b"\0", participant]), value));
        }
    }
    rows.sort_by(|(key, value), (other_key, other)| (value.is_none(), key).cmp(&(other.is_none(), other_key)));
    rows
}

/// Whether rows of an erased booking are to leave: it was erased or became unknown, or a row says nothing that its marker does not.
pub fn is_erasing(state: &BookingState, change: &Change) -> bool {
    if state.erasure_horizon == NEVER {
        return false;
    }
    let is_unknown_now = change.record.is_some() && state.booking.is_none();
    state.erasure_horizon > change.erasure_horizon || is_unknown_now || has_void_row(state, change)
}

/// Whether a row that is stored holds nothing that the booking's marker does not hold.
fn has_void_row(state: &BookingState, change: &Change) -> bool {
    let is_void = |before: &&SessionBefore| {
        state.sessions.get(before.index).is_some_and(|session| {
            let row = session.decoded();
            let voided = Row { horizon: NEVER, ..row };
            session.row != before.row && voided == Row::NOTHING && row.horizon <= state.erasure_horizon
        })
    };
    let is_void_scan = |(index, participant): &(usize, _)| {
        state.sessions.get(*index).is_none_or(|each| each.scans.as_ref().is_none_or(|scans| !scans.contains_key(participant)))
    };
    let own_row = state.erasure_horizon != change.erasure_horizon || state.ever_frequent != change.ever_frequent;
    (own_row && !state.frequent)
        || change.sessions.iter().any(|each| is_void(&each))
        || change.scans.iter().any(|(each, scan)| scan.is_some() && is_void_scan(each))
}

/// Adds what readers see changed of a booking's pairs.
pub fn project_pairs(state: &BookingState, change: &Change, batch: &Batch, entries: &mut Entries) {
    let emits_all = batch.is_redelivery || change.affects_all;
    for before in &change.sessions {
        let Some(session) = state.sessions.get(before.index) else { continue };
        let (row, reported) = (session.decoded(), session.reported());
        let row_before = Row::decode(&before.row).map_or(Row::NOTHING, |(row, _)| row);
        // the minute of the arrival moves only together with the newest event or the status
        let has_newer = row.newest.map(|mark| mark.key) != row_before.newest.map(|mark| mark.key);
        if !(has_newer || emits_all || reported != before.reported) {
            continue;
        }
        let now = contribution(&session.name, reported, state.booking.as_ref());
        let mut document = now.clone();
        if now.is_empty() {
            entries.pairs.push(pair(READ, &session.id, &[], &[]));
            continue;
        }
        let minute = row.arrival_minute(reported);
        write_document(&mut document, &session.name, &state.id, minute, &row, reported);
        if !batch.is_known || batch.is_redelivery {
            entries.pairs.push(pair(READ, &session.id, &[], &document));
            continue;
        }
        let then = if before.reported == reported && !change.affects_all {
            now.clone()
        } else {
            contribution(&session.name, before.reported, change.booking_before(state))
        };
        if then == now {
            if has_newer {
                let kind = if minute == row_before.arrival_minute(before.reported) { SAME } else { ARRIVED };
                entries.pairs.push(pair(kind, &session.id, &[], &document));
            }
        } else {
            entries.pairs.push(pair(MOVED, &session.id, &then, &document));
        }
    }
    for name in &change.listed {
        let then = contribution(name, None, change.booking_before(state));
        let now = contribution(name, None, state.booking.as_ref());
        if then != now || !batch.is_known || batch.is_redelivery {
            let mut document = now;
            if !document.is_empty() {
                write_rest(&mut document, name, &state.id, None);
            }
            entries.pairs.push(pair(READ, &uuid5(&ATTENDANCES, &[&state.id, name]), &[], &document));
        }
    }
}

/// What a pair adds to its session's tally; empty if there is no pair.
fn contribution(session: &[u8], reported: Option<Reported>, booking: Option<&Booking>) -> Vec<u8> {
    let (expected, listed) = booking.map_or((0, None), |booking| booking.listing(session));
    if reported.is_none() && listed.is_none() {
        return Vec::new();
    }
    let mut out = Vec::with_capacity(48 + session.len() + 64);
    write_contribution(&mut out, reported, expected, listed.map(|listed| &listed.packed));
    out
}

/// Completes a packed pair after its contribution.
fn write_document(out: &mut Vec<u8>, session: &[u8], booking: &[u8], minute: u32, row: &Row<'_>, reported: Option<Reported>) {
    let newest = reported.zip(row.newest).map(|(reported, mark)| Newest {
        updated: mark.effective_time(),
        source: mark.source,
        minute,
        is_attended: reported.status == Status::Attended,
    });
    write_rest(out, session, booking, newest);
}

/// An entry of a pair: kind, id, length of the document; of a moved one the contribution before, after its length.
fn pair(kind: u8, id: &[u8; 16], before: &[u8], document: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(20 + before.len() + document.len());
    out.push(kind);
    out.extend_from_slice(id);
    out.extend_from_slice(&(document.len() as u16).to_be_bytes());
    if kind == MOVED {
        out.push(before.len() as u8);
        out.extend_from_slice(before);
    }
    out.extend_from_slice(document);
    out
}
