//! The mismatch rules (schemas/README.md, alerts): which alerts an attendance, or a booking, keeps open.

use crate::event::Status;
use crate::order::event_time;
use crate::reference::Booking;
use crate::row::{Reported, Row};

/// The settings that shape results, microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub clock_tolerance: i64,
    pub conflict_window: i64,
    pub max_event_age: i64,
}

/// The kinds of alerts; those that concern one (booking, session) have the bit of their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertKind {
    StatusCountMismatch = 0,
    ParticipantsExceeded = 1,
    BookingCanceled = 2,
    UnknownSession = 3,
    ConflictingReports = 4,
    ClockAhead = 5,
    FrequentNoShows = 6,
}

impl AlertKind {
    const OF_SESSION: [Self; 6] = [
        Self::StatusCountMismatch,
        Self::ParticipantsExceeded,
        Self::BookingCanceled,
        Self::UnknownSession,
        Self::ConflictingReports,
        Self::ClockAhead,
    ];

    pub fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The kinds in a mask.
    pub fn in_mask(mask: u8) -> impl Iterator<Item = Self> {
        Self::OF_SESSION.into_iter().filter(move |kind| mask & kind.bit() != 0)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::StatusCountMismatch => "STATUS_COUNT_MISMATCH",
            Self::ParticipantsExceeded => "PARTICIPANTS_EXCEEDED",
            Self::BookingCanceled => "BOOKING_CANCELED",
            Self::UnknownSession => "UNKNOWN_SESSION",
            Self::ConflictingReports => "CONFLICTING_REPORTS",
            Self::ClockAhead => "CLOCK_AHEAD",
            Self::FrequentNoShows => "FREQUENT_NO_SHOWS",
        }
    }

    pub fn severity(self) -> &'static str {
        match self {
            Self::StatusCountMismatch | Self::ParticipantsExceeded | Self::UnknownSession => "WARNING",
            Self::BookingCanceled | Self::ConflictingReports => "ERROR",
            Self::ClockAhead | Self::FrequentNoShows => "INFO",
        }
    }
}

/// The mask of an attendance's mismatches, from its row and its booking record, if there is one.
pub fn detect(session: &[u8], reported: Reported, row: &Row<'_>, booking: Option<&Booking>, rules: &Rules) -> u8 {
    let attended = reported.status == Status::Attended;
    let mut mask = 0;
    let mut add = |applies: bool, kind: AlertKind| mask |= if applies { kind.bit() } else { 0 };
    add(attended == (reported.number == 0), AlertKind::StatusCountMismatch);
    if let Some(booking) = booking {
        add(reported.number > booking.participants && !booking.walk_ins_allowed, AlertKind::ParticipantsExceeded);
        add(booking.canceled && attended, AlertKind::BookingCanceled);
        add(booking.sessions.is_some() && booking.find(session).is_none(), AlertKind::UnknownSession);
    }
    if let Some((attended, missed)) = row.opposed_reports() {
        let apart = attended.effective_time().abs_diff(missed.effective_time());
        let is_near = i64::try_from(apart).is_ok_and(|apart| apart <= rules.conflict_window);
        add(attended.source != missed.source && is_near, AlertKind::ConflictingReports);
    }
    add(row.newest.is_some_and(|newest| newest.effective_time() < event_time(&newest.key)), AlertKind::ClockAhead);
    mask
}

/// Whether a booking missed at least 3 sessions, and more than half of those that are attended or missed.
pub fn frequent_no_shows(attended: u32, missed: u32) -> bool {
    missed >= 3 && missed > attended
}
