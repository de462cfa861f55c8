//! The sources of a batch: the newest event of each, and counts for their estimates.

use crate::order::effective;
use std::collections::HashMap;

const MINUTE: i64 = 60_000_000;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// What a batch holds of one source.
#[derive(Debug)]
pub struct Source {
    pub name: Box<[u8]>,
    /// (effective time, time, received) of the newest event that is folded here; of equal ones the last. Microseconds.
    pub newest: Option<(i64, i64, i64)>,
    /// The session of that event; empty for an erasure.
    pub session: Box<[u8]>,
    /// How many events were received in which minute since the epoch, the first minute first.
    pub minutes: Vec<(i64, u32)>,
    /// How many events are of which session, in the order in which these came first.
    pub sessions: Vec<(Box<[u8]>, u32)>,
}

/// The sources of a batch, by index.
#[derive(Debug, Default)]
pub struct Sources {
    pub all: Vec<Source>,
    by_name: Map<Box<[u8]>, usize>,
    minutes: Map<(usize, i64), usize>,
    sessions: Map<(usize, Box<[u8]>), usize>,
}

impl Sources {
    /// The index of a source.
    pub fn find_or_add(&mut self, name: &[u8]) -> usize {
        if let Some(index) = self.by_name.get(name) {
            return *index;
        }
        let source =
            Source { name: name.into(), newest: None, session: Box::default(), minutes: Vec::new(), sessions: Vec::new() };
        self.all.push(source);
        self.by_name.insert(name.into(), self.all.len() - 1);
        self.all.len() - 1
    }

    pub fn name(&self, index: usize) -> &[u8] {
        self.all.get(index).map_or(b"", |source| &source.name)
    }

    /// Counts an event that is folded here.
    pub fn count(&mut self, index: usize, session: &[u8], time: i64, received: i64, tolerance: i64) {
        let Some(source) = self.all.get_mut(index) else { return };
        let moment = (effective(time, received, tolerance), time, received);
        if source.newest.is_none_or(|newest| moment >= newest) {
            source.newest = Some(moment);
            if *source.session != *session {
                source.session = session.into();
            }
        }
        let minute = received.div_euclid(MINUTE);
        match source.minutes.last_mut().filter(|(last, _)| *last == minute) {
            Some((_, count)) => *count += 1,
            None => {
                let slot = *self.minutes.entry((index, minute)).or_insert(source.minutes.len());
                match source.minutes.get_mut(slot) {
                    Some((_, count)) => *count += 1,
                    None => source.minutes.push((minute, 1)),
                }
            }
        }
        if !session.is_empty() {
            let slot = *self.sessions.entry((index, session.into())).or_insert(source.sessions.len());
            match source.sessions.get_mut(slot) {
                Some((_, count)) => *count += 1,
                None => source.sessions.push((session.into(), 1)),
            }
        }
    }
}
