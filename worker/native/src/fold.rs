//! The law of the fold (schemas/README.md): events become one attendance, whatever their order, copies and batches.

use crate::event::{Event, Kind, Status};
use crate::order::{NEVER, OrderKey, Participant, effective_time, participant_hash, time_bytes};
use crate::row::{Base, Mark, Reported, Row};
use std::collections::HashMap;

/// The participants who count, each with the order key of the newest scan; all of them are newer than the base.
pub type Scans = HashMap<Participant, OrderKey, ahash::RandomState>;
/// The participants that changed; None: no longer counts.
pub type ScanChanges = Vec<(Participant, Option<OrderKey>)>;

/// Folds one event, but no erasure, into the row of its session; returns the row after it, and the scans that changed.
pub fn fold<'a>(
    row: &Row<'a>,
    scans: Option<&Scans>,
    key: OrderKey,
    event: &Event<'a>,
    erasure_horizon: i64,
) -> (Row<'a>, ScanChanges) {
    let mut after = *row;
    let mut fresh = None;
    if event.kind == Kind::Deleted {
        after.horizon = after.horizon.max(effective_time(&key));
    } else {
        let mark = Mark { key, source: event.source };
        keep_newer(&mut after.newest, mark);
        if event.kind == Kind::Scanned {
            fresh = Some((participant_hash(event.participant), key));
        } else if after.base.is_none_or(|base| key > base.mark.key) {
            after.base = Some(Base { mark, reported: report_of(event) });
        }
        match event.kind {
            Kind::CheckIn | Kind::Scanned => keep_newer(&mut after.attended, mark),
            Kind::NoShow => keep_newer(&mut after.missed, mark),
            _ => keep_newer(&mut after.overriding, mark),
        }
    }
    let after = normalised(&after, erasure_horizon);
    let changes = scan_changes(row, &after, scans, fresh, erasure_horizon);
    (after, changes)
}

fn keep_newer<'a>(slot: &mut Option<Mark<'a>>, mark: Mark<'a>) {
    if slot.is_none_or(|held| mark.key > held.key) {
        *slot = Some(mark);
    }
}

/// What an event that is a base reports.
fn report_of(event: &Event<'_>) -> Reported {
    let status = match event.kind {
        Kind::CheckIn => Status::Attended,
        Kind::NoShow => Status::NotAttended,
        _ => event.status.unwrap_or(Status::NotSet),
    };
    Reported { status, number: event.number.unwrap_or(u32::from(status == Status::Attended)) }
}

/// The row without marks that its horizon, the booking's erasure horizon or its `overriding` makes void.
///
/// A horizon that is not later than the booking's is left out.
pub fn normalised<'a>(row: &Row<'a>, erasure_horizon: i64) -> Row<'a> {
    let mut after = *row;
    let limit = row.horizon.max(erasure_horizon);
    if limit > NEVER {
        let counts = |mark: &Mark<'_>| mark.effective_time() > limit;
        after.base = after.base.filter(|base| counts(&base.mark));
        for slot in [&mut after.newest, &mut after.attended, &mut after.missed, &mut after.overriding] {
            *slot = slot.filter(counts);
        }
        // a deletion that the erasure covers says nothing more: nothing of an erased booking stays because of it
        after.horizon = if row.horizon > erasure_horizon { row.horizon } else { NEVER };
    }
    if let Some(overriding) = after.overriding {
        for slot in [&mut after.attended, &mut after.missed] {
            *slot = slot.filter(|mark| mark.key > overriding.key);
        }
    }
    after
}

/// The participants of `scans` that no longer count under this row and horizon.
pub fn no_longer_counting(row: &Row<'_>, scans: &Scans, erasure_horizon: i64) -> Vec<Participant> {
    let oldest = oldest_counting(row, erasure_horizon);
    scans.iter().filter(|(_, key)| oldest.is_some_and(|oldest| **key <= oldest)).map(|(each, _)| *each).collect()
}

fn scan_changes(
    before: &Row<'_>,
    after: &Row<'_>,
    scans: Option<&Scans>,
    fresh: Option<(Participant, OrderKey)>,
    erasure_horizon: i64,
) -> ScanChanges {
    let held = scans.filter(|scans| !scans.is_empty());
    if held.is_none() && fresh.is_none() {
        return Vec::new();
    }
    let oldest = oldest_counting(after, erasure_horizon);
    let counts = |key: &OrderKey| oldest.is_none_or(|oldest| *key > oldest);
    let newer = |each: &(Participant, OrderKey)| {
        counts(&each.1) && held.and_then(|scans| scans.get(&each.0)).is_none_or(|held| each.1 > *held)
    };
    let mut changes: ScanChanges = fresh.filter(newer).map(|(participant, key)| (participant, Some(key))).into_iter().collect();
    if oldest > oldest_counting(before, NEVER) {
        let added = changes.first().map(|(participant, _)| *participant);
        let void = held.into_iter().flatten().filter(|(each, key)| !counts(key) && Some(**each) != added);
        changes.extend(void.map(|(participant, _)| (*participant, None)));
    }
    changes
}

/// The order key that a scan must exceed in order to count; None: any counts.
fn oldest_counting(row: &Row<'_>, erasure_horizon: i64) -> Option<OrderKey> {
    let limit = row.horizon.max(erasure_horizon);
    let past = (limit > NEVER).then(|| {
        let mut key = [0xff; 32];
        if let Some(effective) = key.first_chunk_mut() {
            *effective = time_bytes(limit);
        }
        key
    });
    past.max(row.base.map(|base| base.mark.key))
}
