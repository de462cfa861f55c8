//! The alerts that a batch opens, changes or resolves: CloudEvents for the alerts topic, and entries for Redis.

use crate::alert_rules::AlertKind;
use crate::booking::BookingState;
use crate::change::{Batch, Change, NoShows, SessionBefore, no_shows};
use crate::hashing::{ALERTS, guid, hex, sha256, uuid5};
use crate::order::{NEVER, effective_time, event_time};
use crate::project::{Entries, Record};
use crate::reference::Booking;
use crate::row::{Reported, Row, ever_opened};
use crate::time;
use std::io::Write;

/// What an alert was detected from.
struct Subject<'a> {
    booking_id: &'a [u8],
    booking: Option<&'a Booking>,
    erasure_horizon: i64,
    /// `Booking::digest`.
    record: &'a [u8],
    about: About<'a>,
}

#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack")]
enum About<'a> {
    Session { name: &'a [u8], id: &'a [u8; 16], packed: &'a [u8], row: Row<'a>, reported: Option<Reported> },
    Booking { state: &'a BookingState, no_shows: NoShows },
}

/// Adds the alerts to emit of a booking: their entries for Redis, and their records for the alerts topic.
///
/// `operation`: that which published all records of the booking in this batch again; empty: at least one of them is live.
pub fn project_alerts(
    state: &mut BookingState,
    change: &Change,
    batch: &Batch,
    operation: &[u8],
    entries: &mut Entries,
    records: &mut Vec<Record>,
) {
    let has_alerts = change.sessions.iter().any(|before| {
        let mask = state.sessions.get(before.index).map_or(0, |session| session.mask);
        mask != 0 || before.mask != 0 || batch.is_redelivery
    });
    if !has_alerts && !state.ever_frequent {
        return;
    }
    state.record_digest();
    let state: &BookingState = state;
    let mut emit = |subject: &Subject<'_>, kind: AlertKind, is_open: bool| {
        let (entry, record) = subject.emitted(kind, is_open, operation);
        entries.alerts.push(entry);
        records.push(record);
    };
    for before in &change.sessions {
        emit_of_session(state, change, before, batch, &mut emit);
    }
    if state.ever_frequent {
        let now = Subject { about: About::Booking { state, no_shows: no_shows(state) }, ..subject(state) };
        let is_same = |then: &NoShows| now.is_same_as_no_shows(then);
        if state.frequent {
            if batch.is_redelivery || !change.frequent.as_ref().is_some_and(is_same) {
                emit(&now, AlertKind::FrequentNoShows, true);
            }
        } else if change.frequent.is_some() || batch.is_redelivery {
            emit(&now, AlertKind::FrequentNoShows, false);
        }
    }
}

fn subject(state: &BookingState) -> Subject<'_> {
    Subject {
        booking_id: &state.id,
        booking: state.booking.as_ref(),
        erasure_horizon: state.erasure_horizon,
        record: state.digest.as_deref().unwrap_or_default(),
        about: About::Booking { state, no_shows: NoShows { newest: NEVER, missed: 0, decided: 0 } },
    }
}

fn emit_of_session(
    state: &BookingState,
    change: &Change,
    before: &SessionBefore,
    batch: &Batch,
    emit: &mut impl FnMut(&Subject<'_>, AlertKind, bool),
) {
    let Some(session) = state.sessions.get(before.index) else { return };
    let (mask, mask_before) = (session.mask, before.mask);
    let ever = if batch.is_redelivery { ever_opened(&session.row) } else { mask_before };
    if mask | ever == 0 {
        return;
    }
    let (name, id) = (&*session.name, &session.id);
    let (row, reported) = (session.decoded(), session.reported());
    let now = Subject { about: About::Session { name, id, packed: &session.row, row, reported }, ..subject(state) };
    let row_before = Row::decode(&before.row).map_or(Row::NOTHING, |(row, _)| row);
    // an alert contains its attendance: if that changed, so did the alert
    let was_alike = mask & mask_before != 0
        && !batch.is_redelivery
        && before.reported.is_some()
        && before.reported == reported
        && row_before.newest.zip(row.newest).is_some_and(|(then, now)| {
            then.source == now.source && then.effective_time().div_euclid(1000) == now.effective_time().div_euclid(1000)
        });
    let then = Subject {
        booking: change.booking_before(state),
        erasure_horizon: change.erasure_horizon,
        about: About::Session { name, id, packed: &before.row, row: row_before, reported: before.reported },
        ..subject(state)
    };
    for kind in AlertKind::in_mask(mask) {
        if !was_alike || mask_before & kind.bit() == 0 || now.differs(kind, &then) {
            emit(&now, kind, true);
        }
    }
    for kind in AlertKind::in_mask(ever & !mask) {
        emit(&now, kind, false);
    }
}

impl Subject<'_> {
    /// Whether readers see a changed alert; its attendance is unchanged.
    fn differs(&self, kind: AlertKind, then: &Self) -> bool {
        let expected = |subject: &Self| {
            let mut out = Vec::new();
            subject.write_expected(&mut out, kind);
            out
        };
        self.updated().div_euclid(1000) != then.updated().div_euclid(1000)
            || self.message(kind) != then.message(kind)
            || expected(self) != expected(then)
    }

    fn is_same_as_no_shows(&self, then: &NoShows) -> bool {
        let About::Booking { no_shows: now, .. } = &self.about else { return false };
        (now.missed, now.decided) == (then.missed, then.decided) && now.newest.div_euclid(1000) == then.newest.div_euclid(1000)
    }

    fn session_name(&self) -> &[u8] {
        if let About::Session { name, .. } = self.about { name } else { b"" }
    }

    /// The attendance: (row, what it reports); None where there is none, or the alert is about a whole booking.
    fn attendance(&self) -> Option<(&Row<'_>, Reported)> {
        let About::Session { row, reported, .. } = &self.about else { return None };
        row.newest.and(*reported).map(|reported| (row, reported))
    }

    /// The time of the attendance's newest event; of one that is gone, the horizon that removed it.
    fn updated(&self) -> i64 {
        let (newest, horizon) = match &self.about {
            About::Session { row, reported, .. } => {
                (reported.and(row.newest).map_or(NEVER, |mark| mark.effective_time()), row.horizon)
            }
            About::Booking { no_shows, .. } => (no_shows.newest, NEVER),
        };
        let updated = if newest > NEVER { newest } else { horizon.max(self.erasure_horizon) };
        // an alert with neither attendance nor horizon cannot occur; never fail on one
        if updated > NEVER { updated } else { 0 }
    }

    /// (entry for Redis, record for the alerts topic) of an alert that is open, or no longer is.
    fn emitted(&self, kind: AlertKind, is_open: bool, operation: &[u8]) -> (Vec<u8>, Record) {
        let name = self.session_name();
        let mut id = Vec::with_capacity(36);
        guid(&mut id, &uuid5(&ALERTS, &[kind.name().as_bytes(), self.booking_id, name]));
        let booking_time = self.booking.map_or(NEVER, |booking| booking.time);
        let moment = if is_open { self.updated() } else { self.updated().max(booking_time) };
        let data = self.data(kind, is_open, &id, moment);
        let word = if is_open { "opened" } else { "resolved" };
        let mut event = Vec::with_capacity(data.len() + 320);
        event.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":\"");
        event.extend_from_slice(&id);
        let _ = write!(event, ":{word}:");
        hex(&mut event, &self.digest());
        let _ = write!(event, "\",\"source\":\"/attendance-worker\",\"type\":\"attendance.mismatch.{word}\",\"time\":\"");
        time::format(&mut event, moment);
        event.extend_from_slice(b"\",\"datacontenttype\":\"application/json\",\"data\":");
        event.extend_from_slice(&data);
        if !operation.is_empty() {
            event.extend_from_slice(b",\"backfill\":");
            write_json(&mut event, operation);
        }
        event.push(b'}');
        let opened_ms = self.updated().clamp(time::FIRST, time::LAST).div_euclid(1000);
        (entry(&id, kind, [self.booking_id, name], is_open.then_some((opened_ms, &data))), (id, Some(event)))
    }

    /// The alert as readers see it, JSON.
    fn data(&self, kind: AlertKind, is_open: bool, id: &[u8], moment: i64) -> Vec<u8> {
        let mut out = Vec::with_capacity(640);
        out.extend_from_slice(b"{\"alertId\":\"");
        out.extend_from_slice(id);
        let _ = write!(out, "\",\"kind\":\"{}\",\"severity\":\"{}\",\"bookingId\":", kind.name(), kind.severity());
        write_json(&mut out, self.booking_id);
        out.extend_from_slice(b",\"attendance\":");
        self.write_attendance(&mut out);
        out.extend_from_slice(b",\"expected\":");
        self.write_expected(&mut out, kind);
        out.extend_from_slice(b",\"openedAt\":\"");
        time::format(&mut out, self.updated());
        out.extend_from_slice(b"\",\"message\":");
        let message = if is_open { self.message(kind) } else { format!("{} no longer applies", kind.name()).into_bytes() };
        write_json(&mut out, &message);
        if let About::Session { name, .. } = self.about {
            out.extend_from_slice(b",\"sessionId\":");
            write_json(&mut out, name);
        }
        if !is_open {
            out.extend_from_slice(b",\"resolvedAt\":\"");
            time::format(&mut out, moment);
            out.push(b'"');
        }
        out.push(b'}');
        out
    }

    fn write_attendance(&self, out: &mut Vec<u8>) {
        let (About::Session { name, id, .. }, Some((row, reported))) = (&self.about, self.attendance()) else {
            out.extend_from_slice(b"null");
            return;
        };
        let (source, updated) = row.newest.map_or((&b""[..], 0), |mark| (mark.source, mark.effective_time()));
        out.extend_from_slice(b"{\"id\":\"");
        guid(out, id);
        out.extend_from_slice(b"\",\"bookingId\":");
        write_json(out, self.booking_id);
        out.extend_from_slice(b",\"sessionId\":");
        write_json(out, name);
        out.extend_from_slice(b",\"status\":\"");
        out.extend_from_slice(reported.status.name());
        let _ = write!(out, "\",\"numberOfAttendees\":{},\"updatedDate\":\"", reported.number);
        time::format(out, updated);
        out.extend_from_slice(b"\",\"source\":");
        write_json(out, source);
        out.push(b'}');
    }

    /// What would be no mismatch, JSON.
    fn write_expected(&self, out: &mut Vec<u8>, kind: AlertKind) {
        let attended = self.attendance().is_some_and(|(_, each)| each.status == crate::event::Status::Attended);
        let participants = self.booking.map_or(0, |booking| booking.participants);
        let _ = match kind {
            AlertKind::StatusCountMismatch if attended => write!(out, "{{\"numberOfAttendees\":{{\"atLeast\":1}}}}"),
            AlertKind::StatusCountMismatch => write!(out, "{{\"numberOfAttendees\":{{\"atMost\":0}}}}"),
            AlertKind::ParticipantsExceeded => write!(out, "{{\"numberOfAttendees\":{{\"atMost\":{participants}}}}}"),
            AlertKind::BookingCanceled => write!(out, "{{\"status\":[\"NOT_SET\",\"NOT_ATTENDED\"]}}"),
            AlertKind::UnknownSession => {
                out.extend_from_slice(b"{\"sessionId\":[");
                for (index, each) in self.booking.into_iter().flat_map(Booking::by_id).take(20).enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    write_json(out, &each.session);
                }
                write!(out, "]}}")
            }
            AlertKind::ConflictingReports => write!(out, "{{\"reports\":\"one status\"}}"),
            AlertKind::ClockAhead => self.write_expected_time(out),
            AlertKind::FrequentNoShows => {
                let decided = if let About::Booking { no_shows, .. } = &self.about { no_shows.decided } else { 0 };
                write!(out, "{{\"notAttended\":{{\"atMost\":{}}}}}", (decided / 2).max(2))
            }
        };
    }

    fn write_expected_time(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let About::Session { row: Row { newest: Some(newest), .. }, .. } = &self.about else {
            return write!(out, "{{}}");
        };
        out.extend_from_slice(b"{\"time\":{\"atMost\":\"");
        time::format(out, newest.effective_time());
        write!(out, "\"}}}}")
    }

    /// The actual values, while the alert is open.
    fn message(&self, kind: AlertKind) -> Vec<u8> {
        let mut out = Vec::with_capacity(96);
        let attendance = self.attendance();
        let number = attendance.map_or(0, |(_, each)| each.number);
        let participants = self.booking.map_or(0, |booking| booking.participants);
        let listed = self.booking.map_or(0, |booking| booking.listed().len());
        let _ = match kind {
            AlertKind::StatusCountMismatch => {
                out.extend_from_slice(attendance.map_or(b"No attendance", |(_, each)| each.status.name()));
                write!(out, " with {number} attendees")
            }
            AlertKind::ParticipantsExceeded => write!(out, "{number} attendees came on a booking for {participants}"),
            AlertKind::BookingCanceled => write!(out, "ATTENDED, but the booking is canceled"),
            AlertKind::UnknownSession => write!(out, "The booking lists {listed} sessions, but not this one"),
            AlertKind::ConflictingReports => self.write_conflict(&mut out),
            AlertKind::ClockAhead => self.write_clock_ahead(&mut out),
            AlertKind::FrequentNoShows => {
                let About::Booking { no_shows, .. } = &self.about else { return out };
                write!(out, "Missed {} of {} sessions", no_shows.missed, no_shows.decided)
            }
        };
        out
    }

    fn write_conflict(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let About::Session { row, .. } = &self.about else { return Ok(()) };
        let Some((attended, missed)) = row.opposed_reports() else { return Ok(()) };
        for (mark, status, separator) in [(attended, "ATTENDED", ", "), (missed, "NOT_ATTENDED", "")] {
            out.extend_from_slice(mark.source);
            write!(out, " reported {status} at ")?;
            time::format(out, mark.effective_time());
            out.extend_from_slice(separator.as_bytes());
        }
        Ok(())
    }

    fn write_clock_ahead(&self, out: &mut Vec<u8>) -> std::io::Result<()> {
        let Some(newest) = self.attendance().and_then(|(row, _)| row.newest) else {
            return write!(out, "The attendance no longer exists");
        };
        let ahead = event_time(&newest.key).saturating_sub(effective_time(&newest.key)) / 1_000_000;
        out.extend_from_slice(b"The clock of ");
        out.extend_from_slice(newest.source);
        write!(out, " runs at least {ahead} s ahead of what the clock tolerance allows")
    }

    /// Identifies what the alert was detected from: 16 bytes.
    fn digest(&self) -> [u8; 16] {
        let mut text = Vec::with_capacity(320);
        text.extend_from_slice(self.record);
        text.push(0);
        if let Some((_, reported)) = self.attendance() {
            text.extend_from_slice(reported.status.name());
            let _ = write!(text, "{}", reported.number);
        }
        let newest = if let About::Booking { no_shows, .. } = &self.about { no_shows.newest } else { NEVER };
        let _ = write!(text, "\0{}\0{newest}", self.erasure_horizon);
        let nothing;
        let packed: &[u8] = match &self.about {
            About::Session { packed, .. } => packed,
            About::Booking { state, .. } => {
                let reported = state.sessions.iter().filter_map(|each| Some((&*each.name, each.reported()?.status)));
                let mut statuses: Vec<_> = reported.collect();
                statuses.sort_unstable_by_key(|(name, _)| *name);
                for (name, status) in statuses {
                    for part in [name, status.name()] {
                        text.push(0);
                        text.extend_from_slice(part);
                    }
                }
                nothing = Row::NOTHING.encode(0);
                &nothing
            }
        };
        // without format and ever opened alerts: the latter depend on how events were batched
        text.extend_from_slice(packed.get(2..).unwrap_or_default());
        sha256(&text)
    }
}

/// An entry of `apply.lua`: JSON of `[alertId, kind, bookingId, sessionId, opened ms, JSON or empty if it is closed]`.
fn entry(id: &[u8], kind: AlertKind, names: [&[u8]; 2], open: Option<(i64, &Vec<u8>)>) -> Vec<u8> {
    let (opened_ms, data) = open.map_or((0, &b""[..]), |(at, data)| (at, data));
    let mut out = Vec::with_capacity(160 + 2 * data.len());
    out.extend_from_slice(b"[\"");
    out.extend_from_slice(id);
    let _ = write!(out, "\",\"{}\",", kind.name());
    for name in names {
        write_json(&mut out, name);
        out.push(b',');
    }
    let _ = write!(out, "{opened_ms},");
    write_json(&mut out, data);
    out.push(b']');
    out
}

/// Appends a text as a JSON string.
fn write_json(out: &mut Vec<u8>, text: &[u8]) {
    // a Vec takes whatever is written, and all texts are UTF-8
    let _ = serde_json::to_writer(out, &String::from_utf8_lossy(text));
}
