//! Decodes an event whose every field is well-formed. What it takes means the same to `schemas.decoding.explain`, byte for byte;
//! what it does not take, that decoder explains or accepts.

use crate::event::{Kind, Status};
use crate::time;
use serde::de::value::MapAccessDeserializer;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::borrow::Cow;
use std::fmt::{self, Formatter};
use std::marker::PhantomData;

const MAX_EVENT_BYTES: usize = 64 * 1024;
const MAX_NAME: usize = 256;
pub const MAX_BOOKING_ID: usize = 128;
pub const MAX_SESSION_ID: usize = 250;
const MAX_PARTICIPANT_ID: usize = 128;
const MAX_ATTENDEES: u32 = 100_000;
const MAX_NESTING: usize = 500;

/// A decoded event; ids are normalised.
pub struct Decoded<'a> {
    pub kind: Kind,
    pub booking: Cow<'a, str>,
    pub session: Cow<'a, str>,
    pub time: i64,
    pub source: Cow<'a, str>,
    pub id: Cow<'a, str>,
    pub status: Option<Status>,
    pub number: Option<u32>,
    pub participant: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A CloudEvent with data of some kind.
#[derive(Deserialize)]
#[serde(bound(deserialize = "D: Deserialize<'de>"))]
pub struct Document<'a, D> {
    #[serde(borrow)]
    specversion: Cow<'a, str>,
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    #[serde(borrow)]
    pub source: Cow<'a, str>,
    #[serde(borrow, rename = "type")]
    pub kind: Cow<'a, str>,
    #[serde(borrow)]
    pub time: Cow<'a, str>,
    pub data: Object<D>,
    data_base64: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    #[serde(borrow)]
    booking_id: Cow<'a, str>,
    #[serde(borrow)]
    session_id: Option<Text<'a>>,
    number_of_attendees: Option<u32>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    #[serde(borrow)]
    participant_id: Option<Text<'a>>,
}

/// The event in a record's value in structured mode; None: another look is needed.
pub fn decode(value: &[u8]) -> Option<Decoded<'_>> {
    let document = document::<Data<'_>>(value, MAX_EVENT_BYTES)?;
    let Object(data) = document.data;
    let kind = Kind::of_name(document.kind.as_bytes())?;
    let has_number = matches!(kind, Kind::CheckIn | Kind::Set);
    let number = data.number_of_attendees.filter(|_| has_number);
    if number.is_some_and(|number| number > MAX_ATTENDEES) {
        return None;
    }
    Some(Decoded {
        kind,
        booking: id(data.booking_id, MAX_BOOKING_ID, true)?,
        session: if kind == Kind::Erased { Cow::Borrowed("") } else { id(text_of(data.session_id)?, MAX_SESSION_ID, true)? },
        time: time::parse(document.time.as_bytes())?,
        source: name(document.source)?,
        id: name(document.id)?,
        status: if kind == Kind::Set { Some(Status::of_name(text_of(data.status)?.as_bytes())?) } else { None },
        number,
        participant: match kind {
            Kind::Scanned => id(text_of(data.participant_id)?, MAX_PARTICIPANT_ID, false)?,
            _ => Cow::Borrowed(""),
        },
    })
}

fn text_of(field: Option<Text<'_>>) -> Option<Cow<'_, str>> {
    field.map(|text| text.0)
}

/// An object: a struct alone would take an array of its fields' values too.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfObject<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for OfObject<T> {
            type Value = T;

            fn expecting(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(OfObject(PhantomData)).map(Self)
    }
}

/// The CloudEvent in a value of structured mode, which has at most so many bytes.
pub fn document<'a, D: Deserialize<'a>>(value: &'a [u8], most_bytes: usize) -> Option<Document<'a, D>> {
    if value.len() > most_bytes {
        return None;
    }
    let text = std::str::from_utf8(unwrapped(value)).ok()?;
    if is_too_deep(text.as_bytes()) {
        return None;
    }
    let Object(document) = serde_json::from_str::<Object<Document<'a, D>>>(text).ok()?;
    (document.specversion == "1.0" && document.data_base64.is_none()).then_some(document)
}

/// Whether objects and arrays are nested deeper than `MAX_NESTING`: serde reads fields that it skips to any depth.
fn is_too_deep(json: &[u8]) -> bool {
    if json.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() <= MAX_NESTING {
        return false;
    }
    let (mut depth, mut deepest, mut is_text, mut is_escaped) = (0usize, 0, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = is_text,
            b'"' => is_text = !is_text,
            b'[' | b'{' if !is_text => depth += 1,
            b']' | b'}' if !is_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest > MAX_NESTING
}

/// Without the prefix of a schema registry, then without a byte order mark.
pub fn unwrapped(value: &[u8]) -> &[u8] {
    let value = if value.first() == Some(&0) { value.get(5..).unwrap_or_default() } else { value };
    value.strip_prefix(b"\xef\xbb\xbf").unwrap_or(value)
}

/// An event's `id` or `source`, which are not normalised.
pub fn name(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    let length = if text.is_ascii() { text.len() } else { text.chars().count() };
    ((1..=MAX_NAME).contains(&length) && !has_control(&text)).then_some(text)
}

/// A normalised id; None: it is none, or only `schemas.ids` can normalise it.
pub fn id(text: Cow<'_, str>, max_length: usize, may_be_guid: bool) -> Option<Cow<'_, str>> {
    // below U+0300 no character is a mark or composes with one; invisible ones count at the ends alone
    let is_invisible = |each: char| matches!(each, ' ' | '\u{a0}' | '\u{ad}');
    let is_simple = text.is_ascii() || text.chars().all(|each| each < '\u{300}');
    let length = if text.is_ascii() { text.len() } else { text.chars().count() };
    if !is_simple || !(1..=max_length).contains(&length) || has_control(&text) {
        return None;
    }
    if text.starts_with(is_invisible) || text.ends_with(is_invisible) {
        return None;
    }
    if may_be_guid && text.bytes().any(|byte| byte.is_ascii_uppercase()) && is_guid(text.as_bytes()) {
        return Some(Cow::Owned(text.to_ascii_lowercase()));
    }
    Some(text)
}

fn has_control(text: &str) -> bool {
    if text.is_ascii() { text.bytes().any(|byte| byte.is_ascii_control()) } else { text.chars().any(char::is_control) }
}

fn is_guid(text: &[u8]) -> bool {
    text.len() == 36
        && text.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}
