//! Words and numbers in the protocol of Redis (RESP2), and commands with several members of one key.

/// Members of one key that one command sets or removes, packed.
#[derive(Default)]
pub struct Members {
    pub words: usize,
    pub packed: Vec<u8>,
}

impl Members {
    pub fn scored(&mut self, score: &[u8], member: &[&[u8]]) {
        self.words += 2;
        word(&mut self.packed, &[score]);
        word(&mut self.packed, member);
    }

    pub fn add(&mut self, member: &[&[u8]]) {
        self.words += 1;
        word(&mut self.packed, member);
    }
}

/// The members that an index gets and loses.
#[derive(Default)]
pub struct Index {
    pub gets: Members,
    pub loses: Members,
}

/// Appends a word, given in parts.
pub fn word(out: &mut Vec<u8>, parts: &[&[u8]]) {
    length_of(out, b'$', parts.iter().map(|part| part.len()).sum());
    for part in parts {
        out.extend_from_slice(part);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the length of what follows.
pub fn length_of(out: &mut Vec<u8>, kind: u8, length: usize) {
    out.push(kind);
    out.extend_from_slice(&Decimal::of(length as u64));
    out.extend_from_slice(b"\r\n");
}

/// The digits of a number.
pub struct Decimal {
    digits: [u8; 20],
    start: usize,
}

impl Decimal {
    pub fn of(mut number: u64) -> Self {
        let (mut digits, mut start) = ([b'0'; 20], 20);
        for digit in digits.iter_mut().rev() {
            *digit += (number % 10) as u8;
            number /= 10;
            start -= 1;
            if number == 0 {
                break;
            }
        }
        Self { digits, start }
    }
}

impl std::ops::Deref for Decimal {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.digits.get(self.start..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{Decimal, Index, word};

    #[test]
    fn words_are_as_redis_reads_them() {
        let mut out = Vec::new();
        word(&mut out, &[b"roster:", b"yoga"]);
        word(&mut out, &[b""]);
        assert_eq!(out, b"$11\r\nroster:yoga\r\n$0\r\n\r\n");
        let mut index = Index::default();
        index.gets.scored(b"3", &[b"b", b"1"]);
        index.loses.add(&[b"b2"]);
        assert_eq!((index.gets.words, &index.gets.packed[..]), (2, &b"$1\r\n3\r\n$2\r\nb1\r\n"[..]));
        assert_eq!((index.loses.words, &index.loses.packed[..]), (1, &b"$2\r\nb2\r\n"[..]));
    }

    #[test]
    fn numbers_have_all_their_digits() {
        for number in [0, 9, 10, 1 << 32, u64::MAX] {
            assert_eq!(&*Decimal::of(number), number.to_string().as_bytes());
        }
    }
}
