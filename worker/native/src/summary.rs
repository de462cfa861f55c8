//! What readers see of a booking as a whole.

use crate::booking::BookingState;
use crate::event::Status;
use crate::reference::{StartOrder, start_order};

/// How many pairs a booking has of each status; `longest_run` is of NOT_ATTENDED, sessions ordered by their start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub attended: u32,
    pub not_attended: u32,
    pub not_set: u32,
    pub longest_run: u32,
}

impl Summary {
    pub fn no_show_rate(&self) -> f64 {
        let decided = self.attended + self.not_attended;
        if decided == 0 { 0.0 } else { f64::from(self.not_attended) / f64::from(decided) }
    }
}

/// The summary of a booking; None if it has no pair.
pub fn summarise(state: &BookingState) -> Option<Summary> {
    let booking = state.booking.as_ref();
    let counts_listed = booking.is_some_and(|booking| !booking.canceled);
    let listed = booking.map_or(&[][..], |booking| booking.listed());
    let status_of = |index: usize| state.sessions.get(index).and_then(|each| each.reported()).map(|each| each.status);
    // (order, status; None: only listed)
    let mut pairs: Vec<(StartOrder<'_>, Option<Status>)> = Vec::with_capacity(listed.len() + 2);
    for each in listed {
        let status = state.find(&each.session).and_then(status_of);
        pairs.push((start_order(&each.session, each.window.starts), status));
    }
    let count = pairs.iter().filter(|(_, status)| status.is_some()).count();
    let statuses = (0..state.sessions.len()).filter_map(|index| status_of(index).map(|status| (index, status)));
    if statuses.clone().count() > count {
        for (index, status) in statuses {
            let Some(session) = state.sessions.get(index) else { continue };
            if booking.is_none_or(|booking| booking.find(&session.name).is_none()) {
                pairs.push((start_order(&session.name, None), Some(status)));
            }
        }
        pairs.sort_unstable_by(|one, other| one.0.cmp(&other.0));
    }
    let (mut summary, mut run) = (Summary::default(), 0);
    for (_, status) in pairs {
        match status {
            Some(Status::Attended) => {
                summary.attended += 1;
                run = 0;
            }
            Some(Status::NotAttended) => {
                summary.not_attended += 1;
                run += 1;
                summary.longest_run = summary.longest_run.max(run);
            }
            Some(Status::NotSet) => summary.not_set += 1,
            None => summary.not_set += u32::from(counts_listed),
        }
    }
    (summary.attended + summary.not_attended + summary.not_set > 0).then_some(summary)
}
