//! The core of one partition: the events of the batch that is decoded, and the bookings that are in memory.

use crate::alert_rules::Rules;
use crate::applied::Applied;
use crate::booking::{BookingState, LoadError, Marker};
use crate::change::{self, Batch};
use crate::decode;
use crate::event::{Event, Kind, Status};
use crate::hashing::partition_of;
use crate::order::effective;
use crate::reference::{BookingRecord, decode as decode_record};
use crate::sources::Sources;
use std::collections::HashMap;
use std::ops::Range;

type Map<K, V> = HashMap<K, V, ahash::RandomState>;

/// A decoded event of the batch; its texts lie in `Decoded::texts`.
#[derive(Debug)]
struct Held {
    /// Of the record in the batch.
    index: usize,
    slot: usize,
    kind: Kind,
    session: Range<usize>,
    time: i64,
    source: usize,
    id: Range<usize>,
    status: Option<Status>,
    number: Option<u32>,
    participant: Range<usize>,
    received: i64,
}

/// A record of another partition: (index in the batch, bookingId, received in microseconds).
pub type Forward = (usize, Box<[u8]>, i64);

/// The batch that is decoded and not yet applied.
#[derive(Debug, Default)]
struct Decoded {
    events: Vec<Held>,
    texts: Vec<u8>,
    /// (slot, record).
    records: Vec<(usize, BookingRecord)>,
    sources: Sources,
    /// Bookings that are not in memory.
    missing: Vec<Box<[u8]>>,
    forwards: Vec<Forward>,
    folded: [u32; 7],
    forwarded: [u32; 7],
    newest: Option<i64>,
}

/// What was decoded of a batch, but for its events, which the core keeps until they are applied.
#[derive(Debug)]
pub struct Contents {
    pub sources: Sources,
    pub forwards: Vec<Forward>,
    /// How many events of each kind are folded here, and forwarded.
    pub folded: [u32; 7],
    pub forwarded: [u32; 7],
    /// The newest effective time, microseconds.
    pub newest: Option<i64>,
}

/// A record's value as it was fetched: its bytes, and when it was received, microseconds.
pub type Fetched<'a> = (&'a [u8], i64);

/// An event as the explaining decoder gives it.
pub struct Explained<'a> {
    pub booking: &'a [u8],
    pub event: Event<'a>,
}

struct Slot {
    /// None: to be loaded.
    state: Option<BookingState>,
    /// The batch that used it last.
    used: u64,
    weight: usize,
}

pub struct Core {
    partition: u32,
    partitions: u32,
    rules: Rules,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    by_id: Map<Box<[u8]>, usize>,
    bytes: usize,
    batch: u64,
    decoded: Decoded,
    text: Vec<u8>,
}

impl Core {
    pub fn new(partition: u32, partitions: u32, rules: Rules) -> Self {
        Self {
            partition,
            partitions,
            rules,
            slots: Vec::new(),
            free: Vec::new(),
            by_id: Map::default(),
            bytes: 0,
            batch: 1,
            decoded: Decoded::default(),
            text: Vec::new(),
        }
    }

    /// Begins a batch: decodes the values of its records; returns the indexes of those that need the explaining decoder.
    pub fn decode(&mut self, values: &[Option<Fetched<'_>>]) -> Vec<usize> {
        self.begin();
        let mut unusual = Vec::new();
        for (index, fetched) in values.iter().enumerate() {
            let decoded = fetched.and_then(|(value, received)| Some((decode::decode(value)?, received)));
            let max_age = self.rules.max_event_age;
            let Some((found, received)) = decoded.filter(|(each, received)| each.time >= received.saturating_sub(max_age))
            else {
                unusual.push(index);
                continue;
            };
            let event = Event {
                kind: found.kind,
                session: found.session.as_bytes(),
                time: found.time,
                source: found.source.as_bytes(),
                id: found.id.as_bytes(),
                status: found.status,
                number: found.number,
                participant: found.participant.as_bytes(),
                received,
            };
            self.add(index, &Explained { booking: found.booking.as_bytes(), event });
        }
        unusual
    }

    /// Begins a batch of booking records, or one whose events are added one by one.
    pub fn begin(&mut self) {
        self.batch += 1;
        self.decoded = Decoded::default();
    }

    /// Adds an event to the batch, which is forwarded if its booking is another partition's.
    pub fn add(&mut self, index: usize, explained: &Explained<'_>) {
        let Explained { booking, event } = explained;
        let slot = self.by_id.get(*booking).copied();
        let is_ours = slot.is_some() || partition_of(booking, self.partitions) == self.partition;
        let kind = event.kind as usize;
        if !is_ours {
            self.decoded.forwards.push((index, (*booking).into(), event.received));
            if let Some(count) = self.decoded.forwarded.get_mut(kind) {
                *count += 1;
            }
            return;
        }
        let slot = self.touch(booking, slot);
        let decoded = &mut self.decoded;
        let tolerance = self.rules.clock_tolerance;
        let moment = effective(event.time, event.received, tolerance);
        decoded.newest = decoded.newest.max(Some(moment));
        if let Some(count) = decoded.folded.get_mut(kind) {
            *count += 1;
        }
        let source = decoded.sources.find_or_add(event.source);
        let mut hold = |text: &[u8]| {
            let begin = decoded.texts.len();
            decoded.texts.extend_from_slice(text);
            begin..decoded.texts.len()
        };
        let (session, id, participant) = (hold(event.session), hold(event.id), hold(event.participant));
        decoded.events.push(Held {
            index,
            slot,
            kind: event.kind,
            session,
            time: event.time,
            source,
            id,
            status: event.status,
            number: event.number,
            participant,
            received: event.received,
        });
    }

    /// Whether a booking is this partition's.
    pub fn is_ours(&self, booking: &[u8]) -> bool {
        self.by_id.contains_key(booking) || partition_of(booking, self.partitions) == self.partition
    }

    /// Adds a booking record to the batch, as the row that would store it; the booking is this partition's.
    pub fn add_record(&mut self, booking: &[u8], row: &[u8]) -> Result<(), LoadError> {
        let (record, _) = decode_record(row).ok_or(LoadError::Damaged)?;
        let slot = self.by_id.get(booking).copied();
        let slot = self.touch(booking, slot);
        self.decoded.records.push((slot, record));
        Ok(())
    }

    /// The slot of a booking, marked as used by this batch.
    fn touch(&mut self, booking: &[u8], found: Option<usize>) -> usize {
        let batch = self.batch;
        if let Some(slot) = found {
            if let Some(Some(held)) = self.slots.get_mut(slot) {
                held.used = batch;
            }
            return slot;
        }
        let added = Slot { state: None, used: batch, weight: 0 };
        let slot = self.free.pop().unwrap_or(self.slots.len());
        match self.slots.get_mut(slot) {
            Some(place) => *place = Some(added),
            None => self.slots.push(Some(added)),
        }
        self.by_id.insert(booking.into(), slot);
        self.decoded.missing.push(booking.into());
        slot
    }

    /// What was decoded, but for the events; and the bookings that are to be loaded before they are applied.
    pub fn contents(&mut self) -> (Contents, Vec<Box<[u8]>>) {
        let (decoded, tolerance) = (&mut self.decoded, self.rules.clock_tolerance);
        // those that the explaining decoder gave came last
        decoded.events.sort_by_key(|event| event.index);
        for event in &decoded.events {
            let session = decoded.texts.get(event.session.clone()).unwrap_or_default();
            decoded.sources.count(event.source, session, event.time, event.received, tolerance);
        }
        let contents = Contents {
            sources: std::mem::take(&mut decoded.sources),
            forwards: std::mem::take(&mut decoded.forwards),
            folded: decoded.folded,
            forwarded: decoded.forwarded,
            newest: decoded.newest,
        };
        // `apply` needs the names of the sources
        for source in &contents.sources.all {
            decoded.sources.find_or_add(&source.name);
        }
        (contents, std::mem::take(&mut decoded.missing))
    }

    /// Loads a booking from its rows, see `BookingState::load`.
    pub fn load(
        &mut self,
        booking: &[u8],
        rows: &[(&[u8], &[u8])],
        reference: Option<&[u8]>,
        marker: Option<Marker>,
    ) -> Result<(), LoadError> {
        let state = BookingState::load(booking, rows, reference, marker, &self.rules)?;
        let found = self.by_id.get(booking).copied();
        let slot = self.touch(booking, found);
        if let Some(Some(held)) = self.slots.get_mut(slot) {
            self.bytes = self.bytes.saturating_sub(held.weight);
            held.weight = state.weight();
            self.bytes += held.weight;
            held.state = Some(state);
        }
        Ok(())
    }

    /// Applies the batch; bookings that were not loaded have no rows. `operation_of`: see `project_alerts`.
    pub fn apply(&mut self, batch: &Batch, operations: &HashMap<Vec<u8>, Vec<u8>>) -> Applied {
        let mut decoded = std::mem::take(&mut self.decoded);
        let mut applied = Applied::default();
        let mut unchanged = Vec::new();
        // stable, so that the events of a booking keep their order
        decoded.events.sort_by_key(|event| event.slot);
        decoded.records.sort_by_key(|(slot, _)| *slot);
        let mut records = decoded.records.into_iter().peekable();
        let mut groups = decoded.events.chunk_by(|one, other| one.slot == other.slot).peekable();
        loop {
            let of_events = groups.peek().and_then(|group| group.first()).map(|event| event.slot);
            let of_records = records.peek().map(|(slot, _)| *slot);
            let Some(slot) = of_events.into_iter().chain(of_records).min() else { break };
            let group = groups.next_if(|_| of_events == Some(slot)).unwrap_or_default();
            let mut own = Vec::new();
            while let Some((_, record)) = records.next_if(|(each, _)| *each == slot) {
                own.push(record);
            }
            let events = group.iter().map(|event| event.with(&decoded.texts, &decoded.sources));
            let Some(Some(Slot { state: Some(state), weight, .. })) = self.slots.get_mut(slot) else { continue };
            let changed = change::apply(state, events, own, batch, &mut unchanged, &mut self.text);
            if let Some(change) = changed {
                let operation = operations.get(&*state.id).map_or(&[][..], Vec::as_slice);
                applied.add(state, &change, batch, operation);
                self.bytes = self.bytes.saturating_sub(*weight);
                *weight = state.weight();
                self.bytes += *weight;
            }
        }
        for kind in unchanged {
            if let Some(count) = applied.unchanged.get_mut(kind as usize) {
                *count += 1;
            }
        }
        applied.sort();
        applied
    }

    /// Forgets a booking; it is loaded again when it is next needed.
    pub fn forget(&mut self, booking: &[u8]) {
        if let Some(slot) = self.by_id.remove(booking)
            && let Some(place) = self.slots.get_mut(slot)
            && let Some(held) = place.take()
        {
            self.bytes = self.bytes.saturating_sub(held.weight);
            self.free.push(slot);
        }
    }

    /// Forgets the least recently used bookings if all take more bytes than this, an eighth more than is needed, so that it is
    /// seldom done.
    pub fn evict(&mut self, most_bytes: usize) {
        if self.bytes <= most_bytes {
            return;
        }
        let used =
            |slot: &usize| self.slots.get(*slot).and_then(Option::as_ref).map_or((0, 0), |held| (held.used, held.weight));
        let mut held: Vec<(u64, usize, &[u8])> =
            self.by_id.iter().map(|(id, slot)| (used(slot).0, used(slot).1, id.as_ref())).collect();
        held.sort_unstable_by_key(|(used, _, _)| *used);
        let mut excess = self.bytes.saturating_sub(most_bytes - most_bytes / 8);
        let mut leaving: Vec<Box<[u8]>> = Vec::new();
        for (_, weight, id) in held {
            if excess == 0 {
                break;
            }
            excess = excess.saturating_sub(weight);
            leaving.push(id.into());
        }
        for id in leaving {
            self.forget(&id);
        }
    }

    pub fn rules(&self) -> Rules {
        self.rules
    }

    /// Bookings in memory, and about how many bytes they take.
    pub fn size(&self) -> (usize, usize) {
        (self.by_id.len(), self.bytes)
    }
}

impl Held {
    fn with<'a>(&self, texts: &'a [u8], sources: &'a Sources) -> Event<'a> {
        let text = |range: &Range<usize>| texts.get(range.clone()).unwrap_or_default();
        Event {
            kind: self.kind,
            session: text(&self.session),
            time: self.time,
            source: sources.name(self.source),
            id: text(&self.id),
            status: self.status,
            number: self.number,
            participant: text(&self.participant),
            received: self.received,
        }
    }
}
