//! Hashes that others compute too: Kafka's partitioner, GUIDs, the digest of an event.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Of a version 5 UUID, see `schemas.attendance` and `schemas.alerts`.
pub type Namespace = [u8; 16];

pub const ATTENDANCES: Namespace = *b"\x6f\x0c\x1f\x0e\x4a\x55\x5d\x0b\x9a\x67\x2f\x0a\x3d\x1c\x7b\x42";
pub const ALERTS: Namespace = *b"\x2c\x9a\x3b\xe4\x97\xc1\x5b\x1e\x8c\x55\x6f\x5b\x0c\x9e\x4a\x10";

/// The partition of a key: Kafka's default partitioner (murmur2), which no crate of ours has.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    const MIX: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ key.len() as u32;
    let (words, rest) = key.as_chunks::<4>();
    for word in words {
        let mut mixed = u32::from_le_bytes(*word).wrapping_mul(MIX);
        mixed ^= mixed >> 24;
        hash = hash.wrapping_mul(MIX) ^ mixed.wrapping_mul(MIX);
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(MIX);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MIX);
    ((hash ^ (hash >> 15)) & 0x7fff_ffff).checked_rem(partitions).unwrap_or(0)
}

/// The 16 bytes of a UUIDv5 (RFC 9562, 5.5) whose name is these parts, joined by NUL.
pub fn uuid5(namespace: &Namespace, parts: &[&[u8]]) -> [u8; 16] {
    let mut hash = Sha1::new();
    hash.update(namespace);
    for (index, part) in parts.iter().enumerate() {
        if index > 0 {
            hash.update(b"\0");
        }
        hash.update(part);
    }
    let mut id: [u8; 16] = first(&hash.finalize());
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut id;
    *version = *version & 0x0f | 0x50;
    *variant = *variant & 0x3f | 0x80;
    id
}

/// The first bytes of the SHA-256 of a text.
pub fn sha256<const N: usize>(text: &[u8]) -> [u8; N] {
    first(&Sha256::digest(text))
}

fn first<const N: usize>(digest: &[u8]) -> [u8; N] {
    digest.first_chunk().copied().unwrap_or([0; N])
}

/// Appends bytes as lower-case hexadecimal.
pub fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            out.extend(DIGITS.get(usize::from(digit)));
        }
    }
}

/// Appends a GUID as text: lower-case hexadecimal with hyphens.
pub fn guid(out: &mut Vec<u8>, id: &[u8; 16]) {
    let mut at = 0;
    for (index, length) in [4, 2, 2, 2, 6].into_iter().enumerate() {
        if index > 0 {
            out.push(b'-');
        }
        hex(out, id.get(at..at + length).unwrap_or_default());
        at += length;
    }
}

/// The 16 bytes of a GUID, given as `guid` writes it; None: the text is no such one.
pub fn guid_bytes(text: &[u8]) -> Option<[u8; 16]> {
    let text: &[u8; 36] = text.try_into().ok()?;
    let (mut id, mut digits) = ([0; 16], 0);
    for (index, byte) in text.iter().enumerate() {
        let digit = match (index, byte) {
            (8 | 13 | 18 | 23, b'-') => continue,
            (8 | 13 | 18 | 23, _) => return None,
            (_, b'0'..=b'9') => byte - b'0',
            (_, b'a'..=b'f') => byte - b'a' + 10,
            _ => return None,
        };
        let place = id.get_mut(digits / 2)?;
        *place = *place << 4 | digit;
        digits += 1;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_where_kafka_sends_them() {
        // of Kafka's own UtilsTest
        for (key, hash) in [("21", -973_932_308_i32), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)] {
            assert_eq!(partition_of(key.as_bytes(), i32::MAX as u32), (hash & i32::MAX) as u32 % (i32::MAX as u32));
        }
    }

    #[test]
    fn ids_are_version_5() {
        let mut text = Vec::new();
        guid(&mut text, &uuid5(&ATTENDANCES, &[b"b", b"s"]));
        assert_eq!(text.len(), 36);
        assert_eq!((text.get(14), text.get(8)), (Some(&b'5'), Some(&b'-')));
    }
}
