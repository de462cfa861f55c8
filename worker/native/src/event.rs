//! Events and statuses.

/// The status of an attendance; the numbers are those of rows and packed entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Attended = 0,
    NotAttended = 1,
    NotSet = 2,
}

impl Status {
    pub fn of_code(code: u8) -> Option<Self> {
        [Self::Attended, Self::NotAttended, Self::NotSet].into_iter().find(|each| *each as u8 == code)
    }

    pub fn of_name(name: &[u8]) -> Option<Self> {
        [Self::Attended, Self::NotAttended, Self::NotSet].into_iter().find(|each| each.name() == name)
    }

    pub fn name(self) -> &'static [u8] {
        match self {
            Self::Attended => b"ATTENDED",
            Self::NotAttended => b"NOT_ATTENDED",
            Self::NotSet => b"NOT_SET",
        }
    }
}

/// The type of an event of the events topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    CheckIn,
    NoShow,
    Set,
    Scanned,
    Cleared,
    Deleted,
    Erased,
}

impl Kind {
    pub const ALL: [Self; 7] =
        [Self::CheckIn, Self::NoShow, Self::Set, Self::Scanned, Self::Cleared, Self::Deleted, Self::Erased];

    pub fn of_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|each| each.name() == name)
    }

    pub fn name(self) -> &'static [u8] {
        match self {
            Self::CheckIn => b"attendance.check_in",
            Self::NoShow => b"attendance.no_show",
            Self::Set => b"attendance.set",
            Self::Scanned => b"attendance.participant_scanned",
            Self::Cleared => b"attendance.cleared",
            Self::Deleted => b"attendance.deleted",
            Self::Erased => b"booking.erased",
        }
    }
}

/// A decoded event of one booking; times are microseconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    pub kind: Kind,
    /// Empty for an erasure, which concerns every session.
    pub session: &'a [u8],
    pub time: i64,
    pub source: &'a [u8],
    pub id: &'a [u8],
    /// Of a set.
    pub status: Option<Status>,
    /// `numberOfAttendees`; None if left out.
    pub number: Option<u32>,
    /// Of a scan; otherwise empty.
    pub participant: &'a [u8],
    pub received: i64,
}
