//! What must hold whatever bytes come: for the targets in `fuzz/`, which `cargo fuzz` builds with `--cfg fuzzing`.

use crate::alert_rules::Rules;
use crate::change::Batch;
use crate::core::Core;
use crate::decode;
use crate::decode_booking::decode_booking;
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// 2026-11-22T10:00:00Z.
const RECEIVED: i64 = 1_795_341_600_000_000;
const RULES: Rules = Rules { clock_tolerance: 300_000_000, conflict_window: 600_000_000, max_event_age: 1 << 52 };
const BATCH: Batch = Batch { rules: RULES, is_redelivery: false, is_known: true, projected_offset: 0 };
/// As deep as `serde_json::Value` is read.
const DEEPEST: usize = 100;

/// What is decoded is an object of JSON, and says what a parser of any JSON finds in it.
pub fn decode_json(value: &[u8]) {
    if value.iter().filter(|byte| matches!(byte, b'[' | b'{')).count() > DEEPEST {
        return;
    }
    if let Some(found) = decode::decode(value) {
        let Some(document) = parsed(value) else { return };
        assert_eq!(text(&document, &["id"]), Some(&*found.id));
        assert_eq!(text(&document, &["source"]), Some(&*found.source));
        assert_same_id(text(&document, &["data", "bookingId"]), &found.booking);
        let number = document.pointer("/data/numberOfAttendees").and_then(Value::as_u64);
        assert!(found.number.is_none() || found.number.map(u64::from) == number);
    }
    if let Some(found) = decode_booking(value) {
        let Some(document) = parsed(value) else { return };
        assert_same_id(text(&document, &["data", "bookingId"]), &found.booking);
        assert_eq!(text(&document, &["type"]) == Some("booking.deleted"), found.content.is_none());
    }
}

/// None: a field that is ignored holds what no `Value` can, as 1e999 or half of a surrogate pair.
fn parsed(value: &[u8]) -> Option<Value> {
    serde_json::from_slice(decode::unwrapped(value)).ok()
}

fn text<'a>(document: &'a Value, path: &[&str]) -> Option<&'a str> {
    path.iter().try_fold(document, |value, name| value.as_object()?.get(*name))?.as_str()
}

fn assert_same_id(written: Option<&str>, found: &str) {
    assert_eq!(written.map(str::to_ascii_lowercase), Some(found.to_ascii_lowercase()));
}

/// Batches of events, separated by a NUL, their values by line feeds: applied again to the rows that they left, none changes
/// anything, whether the bookings are in memory or loaded.
pub fn fold_again(data: &[u8]) {
    let (mut core, mut rows) = (Core::new(0, 1, RULES), Rows::new());
    for batch in data.split(|byte| *byte == 0) {
        let values: Vec<_> = batch.split(|byte| *byte == b'\n').collect();
        for (key, value) in apply(&mut core, &values, &rows) {
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
        assert_eq!(apply(&mut core, &values, &rows), []);
        assert_eq!(apply(&mut Core::new(0, 1, RULES), &values, &rows), []);
    }
}

/// The rows that a batch changes.
fn apply(core: &mut Core, values: &[&[u8]], rows: &Rows) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let fetched: Vec<_> = values.iter().map(|value| Some((*value, RECEIVED))).collect();
    core.decode(&fetched);
    let (_, missing) = core.contents();
    for booking in missing {
        let start = [&booking, &b"\0"[..]].concat();
        let held: Vec<_> = rows
            .range(start.clone()..)
            .map_while(|(key, value)| Some((key.strip_prefix(&*start)?, value.as_slice())))
            .collect();
        assert!(core.load(&booking, &held, None, None).is_ok());
    }
    core.apply(&BATCH, &HashMap::new()).rows.into_iter().flatten().collect()
}
