//! Decodes a booking record whose every field is well-formed, on the terms of `decode`.

use crate::decode::{MAX_BOOKING_ID, MAX_SESSION_ID, Object, document, id, name};
use crate::reference::{Content, Window};
use crate::time;
use serde::Deserialize;
use std::borrow::Cow;

const MAX_BOOKING_BYTES: usize = 512 * 1024;
const MAX_PARTICIPANTS: u32 = 100_000;

/// A decoded booking record.
pub struct DecodedBooking<'a> {
    /// Normalised.
    pub booking: Cow<'a, str>,
    /// None: the booking was deleted.
    pub content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    #[serde(borrow)]
    booking_id: Cow<'a, str>,
    number_of_participants: Option<u32>,
    walk_ins_allowed: Option<bool>,
    #[serde(borrow, default)]
    service_type: OptionalText<'a>,
    #[serde(borrow, default)]
    status: OptionalText<'a>,
    #[serde(borrow)]
    sessions: Option<Vec<Object<ListedSession<'a>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListedSession<'a> {
    #[serde(borrow)]
    session_id: Cow<'a, str>,
    #[serde(borrow, default)]
    starts_at: OptionalText<'a>,
    #[serde(borrow, default)]
    ends_at: OptionalText<'a>,
}

#[derive(Default, Deserialize)]
struct OptionalText<'a>(#[serde(borrow)] Option<Cow<'a, str>>);

impl OptionalText<'_> {
    fn is_absent_or(&self, texts: &[&str]) -> bool {
        self.0.as_ref().is_none_or(|text| texts.contains(&&**text))
    }

    fn is(&self, text: &str) -> bool {
        self.0.as_deref() == Some(text)
    }
}

/// The booking in a record's value in structured mode; None: another look is needed.
pub fn decode_booking(value: &[u8]) -> Option<DecodedBooking<'_>> {
    let document = document::<Data<'_>>(value, MAX_BOOKING_BYTES)?;
    name(document.source)?;
    name(document.id)?;
    let time = time::parse(document.time.as_bytes())?;
    let Object(data) = document.data;
    let booking = id(data.booking_id, MAX_BOOKING_ID, true)?;
    if !data.service_type.is_absent_or(&["APPOINTMENT", "CLASS", "COURSE"])
        || !data.status.is_absent_or(&["CONFIRMED", "CANCELED"])
    {
        return None;
    }
    let content = match &*document.kind {
        "booking.deleted" => None,
        "booking.upserted" => {
            let participants = data.number_of_participants.filter(|number| (1..=MAX_PARTICIPANTS).contains(number))?;
            let sessions = match data.sessions {
                Some(listed) => Some(windows(listed)?),
                None => None,
            };
            let walk_ins_allowed = data.walk_ins_allowed.unwrap_or(false);
            Some(Content::of(participants, walk_ins_allowed, data.status.is("CANCELED"), sessions, time))
        }
        _ => return None,
    };
    Some(DecodedBooking { booking, content })
}

/// The sessions that are listed, in the order of their ids, each with its widest window.
fn windows(listed: Vec<Object<ListedSession<'_>>>) -> Option<Vec<(Cow<'_, str>, Window)>> {
    let mut found = Vec::with_capacity(listed.len());
    for Object(each) in listed {
        let (starts, ends) = (moment(each.starts_at)?, moment(each.ends_at)?);
        found.push((id(each.session_id, MAX_SESSION_ID, true)?, Window { starts, ends }));
    }
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found.dedup_by(|(name, window), (kept, widest)| {
        let is_same = name == kept;
        if is_same {
            *widest = widest.widened(*window);
        }
        is_same
    });
    Some(found)
}

/// Microseconds since the epoch, `Some(None)` where unknown; None: only `schemas.times` can tell.
#[allow(clippy::option_option)]
fn moment(text: OptionalText<'_>) -> Option<Option<i64>> {
    text.0.map_or(Some(None), |text| time::parse(text.as_bytes()).map(Some))
}

#[cfg(test)]
mod tests {
    use super::decode_booking;

    fn document(data: &str) -> String {
        let head = r#""specversion":"1.0","id":"1","source":"/s","type":"booking.upserted","time":"2026-11-22T10:00:00Z""#;
        format!(r#"{{{head},"data":{{"bookingId":"b",{data}}}}}"#)
    }

    #[test]
    fn a_session_listed_twice_has_its_widest_window() {
        let session = |name: &str, starts: &str, ends: &str| {
            format!(r#"{{"sessionId":"{name}","startsAt":"2026-11-22T{starts}:00Z","endsAt":"2026-11-22T{ends}:00Z"}}"#)
        };
        let listed = |sessions: &[String]| {
            let value = document(&format!(r#""numberOfParticipants":1,"sessions":[{}]"#, sessions.join(",")));
            decode_booking(value.as_bytes()).and_then(|decoded| decoded.content).map(|content| content.listed)
        };
        let twice = listed(&[session("s", "10:00", "11:00"), session("r", "09:00", "10:00"), session("s", "10:30", "12:00")]);
        let once = listed(&[session("r", "09:00", "10:00"), session("s", "10:00", "12:00")]);
        assert!(once.is_some());
        assert_eq!(twice, once);
    }

    #[test]
    fn what_is_not_typical_is_left_to_the_explaining_decoder() {
        assert!(decode_booking(document(r#""numberOfParticipants":1"#).as_bytes()).is_some());
        for data in [
            r#""numberOfParticipants":0"#,
            r#""numberOfParticipants":100001"#,
            r#""numberOfParticipants":1.0"#,
            r#""numberOfParticipants":null"#,
            r#""numberOfParticipants":1,"numberOfParticipants":2"#,
            r#""numberOfParticipants":1,"status":"canceled""#,
            r#""numberOfParticipants":1,"status":{"CANCELED":null}"#,
            r#""numberOfParticipants":1,"serviceType":"EVENT""#,
            r#""numberOfParticipants":1,"walkInsAllowed":1"#,
            r#""numberOfParticipants":1,"sessions":[{}]"#,
            r#""numberOfParticipants":1,"sessions":[["s",null,null]]"#,
            r#""numberOfParticipants":1,"sessions":[{"sessionId":" s"}]"#,
            r#""numberOfParticipants":1,"sessions":[{"sessionId":"s","startsAt":"today"}]"#,
        ] {
            assert!(decode_booking(document(data).as_bytes()).is_none(), "{data}");
        }
    }
}
