//! How a batch changes one booking: fold its events, take its newest record, detect its alerts.

use crate::alert_rules::Rules;
use crate::booking::{BookingState, Session};
use crate::event::{Event, Kind};
use crate::fold::{ScanChanges, fold, no_longer_counting, normalised};
use crate::order::{OrderKey, Participant, effective, order_key};
use crate::reference::{Booking, BookingRecord, Place};
use crate::row::{Reported, Row, add_ever_opened};
use crate::summary::Summary;
use std::collections::{BTreeSet, HashMap};

/// What is the same for all bookings of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    pub rules: Rules,
    /// Whether the batch was redelivered, and perhaps applied before: then everything it touches is emitted again.
    pub is_redelivery: bool,
    /// Whether Redis holds exactly the states from before the batch.
    pub is_known: bool,
    /// Booking records before this offset of the bookings topic are surely projected.
    pub projected_offset: i64,
}

/// What FREQUENT_NO_SHOWS of a booking was detected from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoShows {
    /// The newest effective time of its attendances.
    pub newest: i64,
    pub missed: u32,
    /// How many are ATTENDED or NOT_ATTENDED.
    pub decided: u32,
}

/// A session before the batch.
#[derive(Debug)]
pub struct SessionBefore {
    /// Of the session in its booking.
    pub index: usize,
    pub row: Box<[u8]>,
    pub reported: Option<Reported>,
    pub mask: u8,
}

/// How a batch changed a booking: what was before; the booking itself holds what is now.
#[derive(Debug)]
pub struct Change {
    pub place: Place,
    pub erasure_horizon: i64,
    pub summary: Option<Summary>,
    pub ever_frequent: bool,
    /// If FREQUENT_NO_SHOWS was open.
    pub frequent: Option<NoShows>,
    /// The booking, if this batch replaced it.
    pub replaced: Option<Option<Booking>>,
    /// The record that replaced it; its booking is now the state's.
    pub record: Option<BookingRecord>,
    /// The sessions that changed, or that are emitted since the batch is a redelivery or affects all.
    pub sessions: Vec<SessionBefore>,
    /// By session and participant, the newest scan that counts, or None: no longer counts.
    pub scans: HashMap<(usize, Participant), Option<OrderKey>, ahash::RandomState>,
    /// Whether the record or the erasure horizon, which concern every session, changed or is emitted again.
    pub affects_all: bool,
    /// Whether the summary may have changed.
    pub counts_anew: bool,
    /// Sessions without a row that the booking lists, or listed before.
    pub listed: Vec<Box<[u8]>>,
}

impl Change {
    fn begin(state: &BookingState) -> Self {
        Self {
            place: state.place,
            erasure_horizon: state.erasure_horizon,
            summary: state.summary,
            ever_frequent: state.ever_frequent,
            frequent: state.frequent.then(|| no_shows(state)),
            replaced: None,
            record: None,
            sessions: Vec::new(),
            scans: HashMap::default(),
            affects_all: false,
            counts_anew: false,
            listed: Vec::new(),
        }
    }

    /// The booking before the batch.
    pub fn booking_before<'a>(&'a self, state: &'a BookingState) -> Option<&'a Booking> {
        self.replaced.as_ref().map_or(state.booking.as_ref(), Option::as_ref)
    }
}

/// What FREQUENT_NO_SHOWS is detected from.
pub fn no_shows(state: &BookingState) -> NoShows {
    let mut found = NoShows { newest: i64::MIN, missed: 0, decided: 0 };
    for session in &state.sessions {
        let Some(reported) = session.reported() else { continue };
        if let Some(newest) = session.decoded().newest {
            found.newest = found.newest.max(newest.effective_time());
        }
        found.missed += u32::from(reported.status == crate::event::Status::NotAttended);
        found.decided += u32::from(reported.status != crate::event::Status::NotSet);
    }
    found
}

/// Applies the records of a batch to their booking.
///
/// `unchanged`: is extended by the types of the events that had no effect. `text`: memory for digests.
pub fn apply<'a>(
    state: &mut BookingState,
    events: impl Iterator<Item = Event<'a>>,
    records: Vec<BookingRecord>,
    batch: &Batch,
    unchanged: &mut Vec<Kind>,
    text: &mut Vec<u8>,
) -> Option<Change> {
    let mut change = Change::begin(state);
    for event in events {
        let has_effect = match event.kind {
            Kind::Erased => erase(state, &mut change, &event, batch),
            _ => fold_event(state, &mut change, &event, batch, text),
        };
        if !has_effect {
            unchanged.push(event.kind);
        }
    }
    if !records.is_empty() {
        take_newest(state, &mut change, records, batch);
    }
    if change.sessions.is_empty() && !change.affects_all && change.record.is_none() {
        return None;
    }
    if change.affects_all {
        touch_all(state, &mut change);
    }
    detect_alerts(state, &mut change, &batch.rules);
    if change.counts_anew {
        state.summarise();
        state.ever_frequent |= state.frequent;
    }
    Some(change)
}

/// An erasure moves the booking's horizon; returns whether it has an effect.
fn erase(state: &mut BookingState, change: &mut Change, event: &Event<'_>, batch: &Batch) -> bool {
    let horizon = effective(event.time, event.received, batch.rules.clock_tolerance);
    let before = state.erasure_horizon;
    state.erasure_horizon = before.max(horizon);
    change.affects_all |= batch.is_redelivery || state.erasure_horizon > change.erasure_horizon;
    batch.is_redelivery || state.erasure_horizon > before
}

/// Folds an event into its session; returns whether it has an effect.
fn fold_event(state: &mut BookingState, change: &mut Change, event: &Event<'_>, batch: &Batch, text: &mut Vec<u8>) -> bool {
    let key = order_key(event, batch.rules.clock_tolerance, text);
    let found = state.find(event.session).and_then(|index| state.sessions.get(index));
    let (row, ever_opened) = found.and_then(|each| Row::decode(&each.row)).unwrap_or((Row::NOTHING, 0));
    let scans = found.and_then(|each| each.scans.as_deref());
    let (after, changed) = fold(&row, scans, key, event, state.erasure_horizon);
    if changed.is_empty() && after == row && !batch.is_redelivery {
        return false;
    }
    let encoded = after.encode(ever_opened);
    let index = state.find_or_add(event.session);
    if let Some(session) = state.sessions.get_mut(index) {
        keep_before(session, index, change);
        session.row = encoded;
        keep_scans(session, index, change, changed);
    }
    true
}

/// Keeps a session's row and status from before the batch.
fn keep_before(session: &mut Session, index: usize, change: &mut Change) {
    if !session.is_touched {
        session.is_touched = true;
        let (row, reported) = (session.row.clone(), session.reported());
        change.sessions.push(SessionBefore { index, row, reported, mask: session.mask });
    }
}

fn keep_scans(session: &mut Session, index: usize, change: &mut Change, changed: ScanChanges) {
    if changed.is_empty() {
        return;
    }
    let counting = session.scans.get_or_insert_default();
    for (participant, key) in changed {
        match key {
            Some(key) => counting.insert(participant, key),
            None => counting.remove(&participant),
        };
        change.scans.insert((index, participant), key);
    }
}

/// Makes the record with the greatest place current: a maximum, so neither order nor repeats matter.
fn take_newest(state: &mut BookingState, change: &mut Change, records: Vec<BookingRecord>, batch: &Batch) {
    let newest = records.into_iter().reduce(|one, other| if other.place.order() > one.place.order() { other } else { one });
    let Some(mut record) = newest else { return };
    if record.place.order() > state.place.order() {
        let before = std::mem::replace(&mut state.booking, record.booking.take());
        state.place = record.place;
        state.digest = None;
        // batches are stored before earlier ones are projected: sessions that those removed are kept until then
        let mut removed: BTreeSet<Box<[u8]>> = BTreeSet::new();
        if change.place.read_at >= batch.projected_offset {
            removed.extend(std::mem::take(&mut state.removed_unprojected));
        }
        for each in before.as_ref().map_or(&[][..], |booking| booking.listed()) {
            if state.booking.as_ref().is_none_or(|booking| booking.find(&each.session).is_none()) {
                removed.insert(each.session.clone());
            }
        }
        state.removed_unprojected = removed.into_iter().collect();
        change.replaced = Some(before);
        change.record = Some(record);
    }
    change.affects_all |= batch.is_redelivery || change.booking_before(state) != state.booking.as_ref();
}

/// Touches every session: an erasure horizon may void events of each, and the booking record shows in each.
fn touch_all(state: &mut BookingState, change: &mut Change) {
    let horizon = state.erasure_horizon;
    for (index, session) in state.sessions.iter_mut().enumerate() {
        keep_before(session, index, change);
        if horizon > change.erasure_horizon {
            let Some((row, ever_opened)) = Row::decode(&session.row) else { continue };
            let row = normalised(&row, horizon);
            let void = session.scans.as_deref().map(|scans| no_longer_counting(&row, scans, horizon)).unwrap_or_default();
            session.row = row.encode(ever_opened);
            keep_scans(session, index, change, void.into_iter().map(|participant| (participant, None)).collect());
        }
    }
    let mut listed: BTreeSet<&[u8]> = state.removed_unprojected.iter().map(AsRef::as_ref).collect();
    for booking in [change.booking_before(state), state.booking.as_ref()].into_iter().flatten() {
        listed.extend(booking.listed().iter().map(|each| each.session.as_ref()));
    }
    change.listed = listed.into_iter().filter(|name| state.find(name).is_none()).map(Into::into).collect();
}

/// Computes the open alerts of the sessions that the batch touched.
fn detect_alerts(state: &mut BookingState, change: &mut Change, rules: &Rules) {
    change.counts_anew = change.affects_all;
    for before in &change.sessions {
        let mask = state.detect(before.index, rules);
        let Some(session) = state.sessions.get_mut(before.index) else { continue };
        add_ever_opened(&mut session.row, mask);
        session.mask = mask;
        session.is_touched = false;
        change.counts_anew |= session.reported().map(|each| each.status) != before.reported.map(|each| each.status);
    }
}
