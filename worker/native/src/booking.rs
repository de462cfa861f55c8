//! A booking as a worker holds it in memory: its record, its erasure horizon, its sessions. Loaded from its rows.

use crate::alert_rules::{Rules, detect, frequent_no_shows};
use crate::bytes::Reader;
use crate::fold::{Scans, no_longer_counting, normalised};
use crate::hashing::{ATTENDANCES, uuid5};
use crate::order::{NEVER, OrderKey, Participant};
use crate::reference::{Booking, Place, decode as decode_record};
use crate::row::{FORMAT, Reported, Row};
use crate::summary::{Summary, summarise};
use std::collections::HashMap;

/// Bookings with more sessions than this find them in an index.
const FEW: usize = 8;

/// What is kept of one (booking, session).
#[derive(Debug)]
pub struct Session {
    pub name: Box<[u8]>,
    /// The 16 bytes of the attendance's GUID.
    pub id: [u8; 16],
    /// The row as the table stores it.
    pub row: Box<[u8]>,
    /// The participants that count.
    pub scans: Option<Box<Scans>>,
    /// The mask of alerts that are open now.
    pub mask: u8,
    /// Whether the batch that is applied has touched it.
    pub is_touched: bool,
}

impl Session {
    pub fn decoded(&self) -> Row<'_> {
        Row::decode(&self.row).map_or(Row::NOTHING, |(row, _)| row)
    }

    pub fn participants(&self) -> usize {
        self.scans.as_ref().map_or(0, |scans| scans.len())
    }

    /// The attendance; None: there is none.
    pub fn reported(&self) -> Option<Reported> {
        // status and number of the base are at the same place of each row: read for every session of a booking
        if self.participants() == 0 {
            let mut reader = Reader::new(self.row.get(10..18)?);
            let has_base = reader.u8()? != 0;
            reader.u16()?;
            let (status, number) = (crate::event::Status::of_code(reader.u8()?)?, reader.u32()?);
            return has_base.then_some(Reported { status, number });
        }
        self.decoded().reported(self.participants())
    }
}

/// One booking. Times are microseconds.
#[derive(Debug)]
pub struct BookingState {
    pub id: Box<[u8]>,
    /// Latest effective time of a `booking.erased`: in no session does an event count that is not later.
    pub erasure_horizon: i64,
    /// Whether FREQUENT_NO_SHOWS was ever open.
    pub ever_frequent: bool,
    pub booking: Option<Booking>,
    /// Of the current booking record.
    pub place: Place,
    /// Sessions that earlier booking records listed, and whose removal may not be projected yet; in order.
    pub removed_unprojected: Vec<Box<[u8]>>,
    pub sessions: Vec<Session>,
    index: HashMap<Box<[u8]>, usize, ahash::RandomState>,
    pub summary: Option<Summary>,
    pub frequent: bool,
    /// `Booking::digest`, once an alert has needed it.
    pub digest: Option<Vec<u8>>,
}

/// Why a booking cannot be loaded.
#[derive(Debug)]
pub enum LoadError {
    /// A row has this format.
    OtherFormat(u8),
    /// These bytes are no row.
    Damaged,
}

/// Of an erased booking: its erasure horizon, and the place of the record that made it unknown.
pub type Marker = (i64, Place);

impl BookingState {
    pub fn new(id: &[u8]) -> Self {
        Self {
            id: id.into(),
            erasure_horizon: NEVER,
            ever_frequent: false,
            booking: None,
            place: Place::NOWHERE,
            removed_unprojected: Vec::new(),
            sessions: Vec::new(),
            index: HashMap::default(),
            summary: None,
            frequent: false,
            digest: None,
        }
    }

    /// A booking from its rows, with the statuses, open alerts and summary that it had when they were written.
    ///
    /// `rows`: of `attendance`, (suffix, value). `reference`: of `bookings`. `marker`: of an erased booking.
    pub fn load(
        id: &[u8],
        rows: &[(&[u8], &[u8])],
        reference: Option<&[u8]>,
        marker: Option<Marker>,
        rules: &Rules,
    ) -> Result<Self, LoadError> {
        let mut state = Self::new(id);
        if let Some(packed) = reference {
            check(packed)?;
            let (record, removed) = decode_record(packed).ok_or(LoadError::Damaged)?;
            (state.place, state.booking, state.removed_unprojected) = (record.place, record.booking, removed);
        }
        if let Some((horizon, place)) = marker {
            state.erasure_horizon = horizon;
            if place.order() >= state.place.order() {
                (state.place, state.booking) = (place, None);
            }
        }
        state.load_attendances(rows)?;
        state.drop_void()?;
        for index in 0..state.sessions.len() {
            let mask = state.detect(index, rules);
            if let Some(session) = state.sessions.get_mut(index) {
                session.mask = mask;
            }
        }
        state.summarise();
        Ok(state)
    }

    fn load_attendances(&mut self, rows: &[(&[u8], &[u8])]) -> Result<(), LoadError> {
        for (suffix, value) in rows {
            check(value)?;
            if suffix.is_empty() {
                let mut reader = Reader::new(value.get(1..).unwrap_or_default());
                let (ever, horizon) = reader.u8().zip(reader.i64()).ok_or(LoadError::Damaged)?;
                self.ever_frequent = ever != 0;
                self.erasure_horizon = self.erasure_horizon.max(horizon);
                continue;
            }
            let separator = suffix.iter().position(|byte| *byte == 0);
            let index = self.find_or_add(suffix.get(..separator.unwrap_or(suffix.len())).unwrap_or_default());
            let session = self.sessions.get_mut(index).ok_or(LoadError::Damaged)?;
            match separator {
                None => session.row = (*value).into(),
                Some(at) => {
                    let participant: Option<&Participant> = suffix.get(at + 1..).and_then(|each| each.try_into().ok());
                    let key: Option<&OrderKey> = value.get(1..).and_then(|each| each.try_into().ok());
                    let (participant, key) = participant.zip(key).ok_or(LoadError::Damaged)?;
                    session.scans.get_or_insert_default().insert(*participant, *key);
                }
            }
        }
        Ok(())
    }

    /// Drops what the erasure horizon makes void, and the scans that do not count.
    fn drop_void(&mut self) -> Result<(), LoadError> {
        for session in &mut self.sessions {
            let (row, ever_opened) = Row::decode(&session.row).ok_or(LoadError::Damaged)?;
            let void = session.scans.as_ref().map(|scans| no_longer_counting(&row, scans, self.erasure_horizon));
            if self.erasure_horizon != NEVER {
                session.row = normalised(&row, self.erasure_horizon).encode(ever_opened);
            }
            if let Some(scans) = &mut session.scans {
                for participant in void.into_iter().flatten() {
                    scans.remove(&participant);
                }
            }
        }
        Ok(())
    }

    /// The index of a session.
    pub fn find(&self, name: &[u8]) -> Option<usize> {
        if self.sessions.len() <= FEW {
            return self.sessions.iter().position(|each| *each.name == *name);
        }
        self.index.get(name).copied()
    }

    /// The index of a session, which is added without events if it is new.
    pub fn find_or_add(&mut self, name: &[u8]) -> usize {
        if let Some(found) = self.find(name) {
            return found;
        }
        let id = uuid5(&ATTENDANCES, &[&self.id, name]);
        self.sessions.push(Session {
            name: name.into(),
            id,
            row: Row::NOTHING.encode(0),
            scans: None,
            mask: 0,
            is_touched: false,
        });
        let last = self.sessions.len() - 1;
        if self.sessions.len() == FEW + 1 {
            self.index = self.sessions.iter().enumerate().map(|(index, each)| (each.name.clone(), index)).collect();
        } else if self.sessions.len() > FEW {
            self.index.insert(name.into(), last);
        }
        last
    }

    /// The mask of the mismatches of a session's attendance.
    pub fn detect(&self, index: usize, rules: &Rules) -> u8 {
        let Some(session) = self.sessions.get(index) else { return 0 };
        let row = session.decoded();
        row.reported(session.participants())
            .map_or(0, |reported| detect(&session.name, reported, &row, self.booking.as_ref(), rules))
    }

    /// Counts the statuses of its sessions again.
    pub fn summarise(&mut self) {
        self.summary = summarise(self);
        self.frequent = self.summary.is_some_and(|each| frequent_no_shows(each.attended, each.not_attended));
    }

    /// Identifies the booking's record in the ids of alerts; empty if it is unknown.
    pub fn record_digest(&mut self) -> &[u8] {
        let (booking, id) = (&self.booking, &self.id);
        self.digest.get_or_insert_with(|| booking.as_ref().map_or_else(Vec::new, |booking| booking.digest(id)))
    }

    /// About how many bytes it takes.
    pub fn weight(&self) -> usize {
        let of_sessions: usize =
            self.sessions.iter().map(|each| 160 + each.name.len() + each.row.len() + 64 * each.participants()).sum();
        let listed = self.booking.as_ref().map_or(0, |booking| booking.listed().len());
        400 + self.id.len() + of_sessions + 140 * listed
    }
}

fn check(value: &[u8]) -> Result<(), LoadError> {
    match value.first() {
        Some(&FORMAT) => Ok(()),
        Some(&other) => Err(LoadError::OtherFormat(other)),
        None => Err(LoadError::Damaged),
    }
}
