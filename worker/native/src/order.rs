//! The order of events: the law's order key, 32 bytes that compare as the law orders.

use crate::event::Event;
use crate::hashing::sha256;
use std::io::Write;

/// (effective time, time, received, digest), 8 bytes each, big endian; times are shifted so that they compare as bytes.
pub type OrderKey = [u8; 32];
/// The first 16 bytes of the SHA-256 of a participant's id.
pub type Participant = [u8; 16];

/// Horizon of what was never deleted: earlier than any event.
pub const NEVER: i64 = i64::MIN;
const ZERO: u64 = 1 << 63;

/// A time as 8 bytes of an order key.
pub fn time_bytes(micros: i64) -> [u8; 8] {
    (micros as u64 ^ ZERO).to_be_bytes()
}

fn time_at(key: &OrderKey, index: usize) -> i64 {
    let bytes = key.get(index..index + 8).and_then(|each| each.first_chunk()).copied().unwrap_or_default();
    (u64::from_be_bytes(bytes) ^ ZERO) as i64
}

/// The effective time of an order key, microseconds.
pub fn effective_time(key: &OrderKey) -> i64 {
    time_at(key, 0)
}

/// The event's own time in an order key, microseconds.
pub fn event_time(key: &OrderKey) -> i64 {
    time_at(key, 8)
}

/// When an event is effective: not later than its reception, but for the clock tolerance; microseconds.
pub fn effective(time: i64, received: i64, tolerance: i64) -> i64 {
    time.min(received.saturating_add(tolerance))
}

/// The first 24 bytes of an order key: effective time, time, received.
pub fn pack_times(time: i64, received: i64, tolerance: i64) -> [u8; 24] {
    let mut packed = [0; 24];
    for (slot, micros) in packed.as_chunks_mut::<8>().0.iter_mut().zip([effective(time, received, tolerance), time, received]) {
        *slot = time_bytes(micros);
    }
    packed
}

/// The order key of an event. `text` is only memory, used again by the next call.
pub fn order_key(event: &Event<'_>, tolerance: i64, text: &mut Vec<u8>) -> OrderKey {
    let mut key = [0; 32];
    let (times, digest) = key.split_at_mut(24);
    times.copy_from_slice(&pack_times(event.time, event.received, tolerance));
    text.clear();
    for part in [event.source, event.id, event.kind.name(), event.status.map_or(b"", |status| status.name())] {
        text.extend_from_slice(part);
        text.push(b'\n');
    }
    if let Some(number) = event.number {
        let _ = write!(text, "{number}");
    }
    text.push(b'\n');
    text.extend_from_slice(event.participant);
    digest.copy_from_slice(&sha256::<8>(text));
    key
}

/// What identifies a participant in rows, whatever the length of the id.
pub fn participant_hash(participant: &[u8]) -> Participant {
    sha256(participant)
}
