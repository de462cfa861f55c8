//! The commands of a transaction that applies entries to Redis: what `worker/read_model/lua/apply.lua` does with them, as text.
//!
//! The owner of a partition knows what its pairs contributed before, so most entries need nothing that only Redis knows. Those
//! that do, because a window comes or goes or Redis may hold something else, are left to the script: `needs_script`.

use crate::bytes::Reader;
use crate::document::{Contribution, names};
use crate::protocol::{Decimal, Index, Members, length_of, word};
use ahash::AHashMap;
use std::borrow::Cow;

/// What follows the prefix of a key generation, by the names that `worker/read_model/keys.py` has.
pub struct Names {
    pub doc: Vec<u8>,
    pub ids: Vec<u8>,
    pub tally: Vec<u8>,
    pub sessions: Vec<u8>,
    pub sessions_start: Vec<u8>,
    pub roster: Vec<u8>,
    pub by_status: Vec<u8>,
    pub unlisted: Vec<u8>,
    pub by_booking: Vec<u8>,
    pub booking: Vec<u8>,
    pub no_shows: Vec<u8>,
    pub alerts: Vec<u8>,
    pub alerts_at: Vec<u8>,
    pub alerts_kind: Vec<u8>,
    pub alerts_session: Vec<u8>,
    pub alerts_booking: Vec<u8>,
    pub devices: Vec<u8>,
    pub devices_at: Vec<u8>,
}

/// Kinds of pairs, and of entries of bookings, see `apply.lua`.
const READ: u8 = 0;
const MOVED: u8 = 2;
const ARRIVED: u8 = 3;
const MEMBER: u8 = 1;
/// What becomes of the member that stands for a booking's record in the index of ATTENDED.
const ADD: u8 = 1;
const REMOVE: u8 = 2;
/// In place of a status: any index may have the member, or none.
const UNKNOWN: u8 = 255;

const ONLY_LISTED: u8 = 3;
/// The score that the index by status does not list: ATTENDED with one attendee.
const COMMON: u64 = 1;
const NO_WINDOW: (u8, &[u8]) = (0, b"");

/// Whether an entry of a pair needs what only Redis knows.
pub fn needs_script(entry: &[u8]) -> bool {
    match entry.first() {
        Some(&READ) | None => true,
        Some(&MOVED) => Pair::parse(entry).is_none_or(|pair| {
            let window = Contribution::parse(pair.document).map_or(NO_WINDOW, |(now, _)| now.window);
            window != Contribution::parse(pair.before).map_or(NO_WINDOW, |(before, _)| before.window)
        }),
        Some(_) => false,
    }
}

/// Commands in the protocol of Redis, and the sessions that they change.
pub struct Commands<'a> {
    pub packed: Vec<u8>,
    pub count: usize,
    pub sessions: Vec<Cow<'a, [u8]>>,
}

struct Pair<'a> {
    kind: u8,
    id: &'a [u8],
    before: &'a [u8],
    document: &'a [u8],
}

impl<'a> Pair<'a> {
    fn parse(entry: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(entry);
        let (kind, id, length) = (reader.u8()?, reader.take(16)?, reader.u16()?);
        let before = if kind == MOVED { reader.u8()? } else { 0 };
        let before = reader.take(usize::from(before))?;
        Some(Self { kind, id, before, document: reader.take(usize::from(length))? })
    }
}

impl Contribution<'_> {
    /// The score of the attendance in the indexes by status and of its session.
    fn score(&self) -> Option<u64> {
        self.has_attendance.then(|| (u64::from(self.status) << 32) | u64::from(self.number))
    }

    fn state(&self) -> u8 {
        if self.has_attendance { self.status } else { ONLY_LISTED }
    }
}

#[derive(Clone, Copy, Default)]
struct Tally {
    bookings: i64,
    reported: i64,
    companions: i64,
    expected: i64,
}

impl Tally {
    fn add(&mut self, contributed: &Contribution<'_>, sign: i64) {
        self.bookings += sign;
        match contributed.status {
            0 => {
                self.reported += sign;
                self.companions += sign * (i64::from(contributed.number) - 1);
            }
            1 => self.reported += sign << 32,
            _ => (),
        }
        self.expected += sign * contributed.expected;
    }
}

/// What changes of a session.
struct Session<'a> {
    name: Cow<'a, [u8]>,
    tally: Tally,
    ids: Index,
    roster: Members,
}

/// Collects the commands of one transaction; each member of a key is set or removed once.
pub struct Builder<'a> {
    names: &'a Names,
    prefix: &'a [u8],
    shift: u32,
    packed: Vec<u8>,
    count: usize,
    sessions: Vec<Session<'a>>,
    session_of: AHashMap<Cow<'a, [u8]>, usize>,
    by_status: Index,
    by_booking: [Index; 3],
    no_shows: Index,
    unlisted: i64,
}

impl<'a> Builder<'a> {
    /// `shift`: of the first 16 bits of an id, gives its bucket.
    pub fn new(names: &'a Names, prefix: &'a [u8], shift: u32) -> Self {
        Self {
            names,
            prefix,
            shift,
            packed: Vec::with_capacity(64 * 1024),
            count: 0,
            sessions: Vec::new(),
            session_of: AHashMap::new(),
            by_status: Index::default(),
            by_booking: Default::default(),
            no_shows: Index::default(),
            unlisted: 0,
        }
    }

    /// Adds an entry of a pair; None: it is damaged, or needs the script.
    pub fn pair(&mut self, entry: &'a [u8]) -> Option<()> {
        let pair = Pair::parse(entry)?;
        let (id, document) = (pair.id, pair.document);
        let bucket = u16::from_be_bytes([*id.first()?, *id.get(1)?]) >> self.shift;
        self.command(b"HSET", &[&self.names.doc, &Decimal::of(bucket.into())], &[id, document]);
        if pair.kind != MOVED && pair.kind != ARRIVED {
            return Some(());
        }
        let (now, rest) = Contribution::parse(document)?;
        let [name, booking] = names(now.has_attendance, rest)?;
        let at = *self.session_of.entry(name.clone()).or_insert(self.sessions.len());
        if at == self.sessions.len() {
            self.sessions.push(Session { name, tally: Tally::default(), ids: Index::default(), roster: Members::default() });
        }
        if pair.kind == ARRIVED {
            return Some(());
        }
        let before = if pair.before.is_empty() { None } else { Some(Contribution::parse(pair.before)?.0) };
        let session = self.sessions.get_mut(at)?;
        session.tally.add(&now, 1);
        if let Some(before) = &before {
            session.tally.add(before, -1);
        }
        if before.as_ref().map(Contribution::state) != Some(now.state()) {
            session.roster.scored(&Decimal::of(now.state().into()), &[&booking]);
        }
        let (score, old_score) = (now.score(), before.and_then(|before| before.score()));
        if score != old_score {
            self.unlisted += i64::from(score == Some(COMMON)) - i64::from(old_score == Some(COMMON));
            if let Some(score) = score {
                session.ids.gets.scored(&Decimal::of(score), &[id]);
            } else {
                session.ids.loses.add(&[id]);
            }
            if let Some(score) = score.filter(|score| *score != COMMON) {
                self.by_status.gets.scored(&Decimal::of(score), &[id]);
            } else if old_score.is_some_and(|score| score != COMMON) {
                self.by_status.loses.add(&[id]);
            }
        }
        Some(())
    }

    /// Adds an entry of a booking; None: it is damaged.
    pub fn booking(&mut self, entry: &[u8]) -> Option<()> {
        let mut reader = Reader::new(entry);
        if reader.u8()? == MEMBER {
            let (booking, id, now, before) = (reader.text()?, reader.take(16)?, reader.u8()?, reader.u8()?);
            for (status, index) in (0_u8..).zip(&mut self.by_booking) {
                if now == status {
                    index.gets.scored(b"0", &[booking, b"\0", id]);
                } else if before == status || before == UNKNOWN {
                    index.loses.add(&[booking, b"\0", id]);
                }
            }
            return Some(());
        }
        let bucket = reader.array::<2>()?;
        let (booking, record_member) = (reader.text()?, reader.u8()?);
        let rate = f64::from_be_bytes(*reader.array()?);
        let record = reader.text()?;
        let key: [&[u8]; 2] = [&self.names.booking, &Decimal::of(u16::from_be_bytes(*bucket).into())];
        match record {
            [] => self.command(b"HDEL", &key, &[booking]),
            _ => self.command(b"HSET", &key, &[booking, record]),
        }
        let [attended, ..] = &mut self.by_booking;
        match record_member {
            ADD => attended.gets.scored(b"0", &[booking, b"\0", bucket]),
            REMOVE => attended.loses.add(&[booking, b"\0", bucket]),
            _ => (),
        }
        if rate < 0.0 {
            self.no_shows.gets.scored(rate.to_string().as_bytes(), &[booking]);
        } else if rate > 0.0 {
            self.no_shows.loses.add(&[booking]);
        }
        Some(())
    }

    /// Adds an entry of an alert; None: it is damaged.
    pub fn alert(&mut self, entry: &[u8]) -> Option<()> {
        let (id, kind, booking, session, opened, json): (String, String, String, String, i64, String) =
            serde_json::from_slice(entry).ok()?;
        let (id, opened, names) = (id.as_bytes(), opened.to_string(), self.names);
        let of_session: [&[u8]; 2] = [&names.alerts_session, session.as_bytes()];
        let indexes: [[&[u8]; 2]; 3] =
            [[&names.alerts_at, b""], [&names.alerts_kind, kind.as_bytes()], [&names.alerts_booking, booking.as_bytes()]];
        match json.as_bytes() {
            [] => self.command(b"HDEL", &[&names.alerts], &[id]),
            json => self.command(b"HSET", &[&names.alerts], &[id, json]),
        }
        for index in indexes.iter().chain(Some(&of_session).filter(|_| !session.is_empty())) {
            if json.is_empty() {
                self.command(b"ZREM", index, &[id]);
            } else {
                self.command(b"ZADD", index, &[opened.as_bytes(), id]);
            }
        }
        Some(())
    }

    /// Adds an entry of a device; None: it is damaged.
    pub fn device(&mut self, entry: &[u8]) -> Option<()> {
        let mut reader = Reader::new(entry);
        let (source, effective) = (reader.text()?, f64::from_be_bytes(*reader.array()?));
        let length = reader.u8()?;
        let newest = reader.take(usize::from(length))?;
        let names = self.names;
        if newest.is_empty() {
            self.command(b"HDEL", &[&names.devices], &[source]);
            self.command(b"ZREM", &[&names.devices_at], &[source]);
        } else {
            self.command(b"HSET", &[&names.devices], &[source, newest]);
            self.command(b"ZADD", &[&names.devices_at], &[effective.to_string().as_bytes(), source]);
        }
        Some(())
    }

    /// All commands.
    pub fn finish(mut self) -> Commands<'a> {
        let (sessions, names) = (std::mem::take(&mut self.sessions), self.names);
        for Session { name, tally, ids, roster } in &sessions {
            self.count(&[&names.tally, name], b"bookings", tally.bookings);
            self.count(&[&names.tally, name], b"reported", tally.reported);
            self.count(&[&names.tally, name], b"companions", tally.companions);
            self.count(&[&names.tally, name], b"expectedParticipants", tally.expected);
            if tally.bookings > 0 {
                // of a session that is there already neither changes anything: its start is that of its windows
                self.command(b"ZADD", &[&names.sessions], &[b"0", name]);
                self.command(b"ZADD", &[&names.sessions_start], &[b"NX", b"+inf", name]);
            }
            self.index(&[&names.ids, name], ids);
            self.members(b"ZADD", &[&names.roster, name], roster);
        }
        self.count(&[&names.unlisted], b"attendances", self.unlisted);
        let (by_status, no_shows) = (std::mem::take(&mut self.by_status), std::mem::take(&mut self.no_shows));
        self.index(&[&names.by_status], &by_status);
        self.index(&[&names.no_shows], &no_shows);
        for (status, index) in std::mem::take(&mut self.by_booking).iter().enumerate() {
            self.index(&[&names.by_booking, status.to_string().as_bytes()], index);
        }
        Commands { packed: self.packed, count: self.count, sessions: sessions.into_iter().map(|each| each.name).collect() }
    }

    fn index(&mut self, key: &[&[u8]], index: &Index) {
        self.members(b"ZADD", key, &index.gets);
        self.members(b"ZREM", key, &index.loses);
    }

    fn members(&mut self, verb: &[u8], key: &[&[u8]], members: &Members) {
        if members.words > 0 {
            self.head(verb, key, members.words);
            self.packed.extend_from_slice(&members.packed);
        }
    }

    fn count(&mut self, key: &[&[u8]], field: &[u8], change: i64) {
        if change != 0 {
            self.command(b"HINCRBY", key, &[field, change.to_string().as_bytes()]);
        }
    }

    fn command(&mut self, verb: &[u8], key: &[&[u8]], words: &[&[u8]]) {
        self.head(verb, key, words.len());
        for each in words {
            word(&mut self.packed, &[each]);
        }
    }

    /// Begins a command with so many words after its key.
    fn head(&mut self, verb: &[u8], key: &[&[u8]], words: usize) {
        let length = self.prefix.len() + key.iter().map(|part| part.len()).sum::<usize>();
        length_of(&mut self.packed, b'*', 2 + words);
        word(&mut self.packed, &[verb]);
        length_of(&mut self.packed, b'$', length);
        self.packed.extend_from_slice(self.prefix);
        for part in key {
            self.packed.extend_from_slice(part);
        }
        self.packed.extend_from_slice(b"\r\n");
        self.count += 1;
    }
}
