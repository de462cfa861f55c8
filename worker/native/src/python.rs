//! The core as Python sees it. Everything that works on a whole batch runs without the interpreter's lock.

use crate::alert_rules::Rules;
use crate::applied::Applied;
use crate::booking::LoadError;
use crate::change::Batch;
use crate::core::{self, Explained};
use crate::decode_booking::DecodedBooking;
use crate::event::{Event, Kind, Status};
use crate::order::pack_times;
use crate::project::Record;
use crate::reference::Place;
use crate::time;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Sessions of a source whose events estimates count, see `worker/read_model/estimates.py`.
const MOST_SESSIONS: usize = 8;

/// The bookings of one partition in memory, and the batch that is worked on.
#[pyclass(module = "attendance_native")]
pub struct Core {
    core: core::Core,
}

#[pymethods]
impl Core {
    /// Times are microseconds.
    #[new]
    fn new(partition: u32, partitions: u32, clock_tolerance: i64, conflict_window: i64, max_event_age: i64) -> Self {
        let rules = Rules { clock_tolerance, conflict_window, max_event_age };
        Self { core: core::Core::new(partition, partitions, rules) }
    }

    /// Begins a batch of events: records with `value`, `headers` and `timestamp`. Returns the indexes of those that need the
    /// explaining decoder.
    fn decode(&mut self, py: Python<'_>, records: &Bound<'_, PyList>) -> PyResult<Vec<usize>> {
        let values = records.iter().map(|record| value_of(&record)).collect::<PyResult<Vec<_>>>()?;
        let fetched: Vec<_> =
            values.iter().map(|each| each.as_ref().map(|(value, received)| (&value[..], *received))).collect();
        let core = &mut self.core;
        py.detach(|| guarded(|| core.decode(&fetched)))
    }

    /// Begins a batch of booking records.
    fn begin(&mut self) {
        self.core.begin();
    }

    /// Adds an event that the explaining decoder gave, `schemas.events.Event`, of the record with this index.
    #[allow(clippy::type_complexity)]
    fn add(
        &mut self,
        index: usize,
        event: (String, String, String, i64, String, String, String, Option<u32>, String, i64),
    ) -> PyResult<()> {
        let (kind, booking, session, time, source, id, status, number, participant, received) = &event;
        let kind =
            Kind::of_name(kind.as_bytes()).ok_or_else(|| PyValueError::new_err(format!("{kind} is no type of an event")))?;
        let event = Event {
            kind,
            session: session.as_bytes(),
            time: *time,
            source: source.as_bytes(),
            id: id.as_bytes(),
            status: Status::of_name(status.as_bytes()),
            number: *number,
            participant: participant.as_bytes(),
            received: *received,
        };
        guarded(|| self.core.add(index, &Explained { booking: booking.as_bytes(), event }))
    }

    /// Whether a booking is this partition's.
    fn is_ours(&self, booking: &str) -> bool {
        self.core.is_ours(booking.as_bytes())
    }

    /// Adds a booking record, as the row of `bookings` that would store it.
    fn add_record(&mut self, booking: &[u8], row: &[u8]) -> PyResult<()> {
        guarded(|| self.core.add_record(booking, row))?.map_err(|error| load_error(&error))
    }

    /// What was decoded: (bookings to load, forwards, newest time or None, by type: folded, forwarded, sources).
    ///
    /// A forward is (index, bookingId, received). A source is (name, first 24 bytes of the order key of its newest event, its
    /// received, its time, its session, {minute: events}, {session: events}).
    fn contents<'py>(&mut self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let (contents, missing) = guarded(|| self.core.contents())?;
        let missing = PyList::new(py, missing.iter().map(|each| PyBytes::new(py, each)))?;
        let forwards = PyList::empty(py);
        for (index, booking, received) in &contents.forwards {
            forwards.append((index, text(py, booking), received))?;
        }
        let sources = PyList::empty(py);
        for source in &contents.sources.all {
            let Some((effective, time, received)) = source.newest else { continue };
            // its effective time is kept: with it as the limit the packed times are those of the order key
            let newest = pack_times(time, effective, 0);
            let newest =
                PyBytes::new(py, &[newest.get(..16).unwrap_or_default(), &crate::order::time_bytes(received)].concat());
            let (minutes, sessions) = (PyDict::new(py), PyDict::new(py));
            let latest = source.sessions.len().saturating_sub(MOST_SESSIONS);
            for (minute, count) in &source.minutes {
                minutes.set_item(minute, count)?;
            }
            for (session, count) in source.sessions.iter().skip(latest) {
                sessions.set_item(text(py, session), count)?;
            }
            sources.append((text(py, &source.name), newest, received, time, text(py, &source.session), minutes, sessions))?;
        }
        let (folded, forwarded) = (by_type(py, &contents.folded)?, by_type(py, &contents.forwarded)?);
        (missing, forwards, contents.newest, folded, forwarded, sources).into_pyobject(py)
    }

    /// Loads a booking: its rows of `attendance` by suffix, its row of `bookings`, of an erased one (horizon, (received, offset,
    /// read at)) of its marker.
    ///
    /// Raises ValueError with the format of a row that has another one.
    fn load(
        &mut self,
        booking: &[u8],
        rows: &Bound<'_, PyDict>,
        reference: Option<&[u8]>,
        marker: Option<(i64, (i64, i64, i64))>,
    ) -> PyResult<()> {
        let mut found = Vec::with_capacity(rows.len());
        for (suffix, value) in rows {
            found.push((suffix.cast_into::<PyBytes>()?, value.cast_into::<PyBytes>()?));
        }
        let rows: Vec<_> = found.iter().map(|(suffix, value)| (suffix.as_bytes(), value.as_bytes())).collect();
        let marker = marker.map(|(horizon, (received, offset, read_at))| (horizon, Place { received, offset, read_at }));
        guarded(|| self.core.load(booking, &rows, reference, marker))?.map_err(|error| load_error(&error))
    }

    /// Applies the batch. `operations`: by booking, the operation that published all of its records in the batch again.
    /// `most_bytes`: what the bookings in memory may take afterwards, about.
    ///
    /// Returns (groups of (key, value) of `attendance`, (key, value) of `bookings`, pairs, bookings, alerts for Redis, (key,
    /// value) of the alerts topic, by type how many events changed nothing, bookings of which rows are to leave).
    fn apply<'py>(
        &mut self,
        py: Python<'py>,
        is_redelivery: bool,
        is_known: bool,
        projected_offset: i64,
        operations: HashMap<Vec<u8>, Vec<u8>>,
        most_bytes: usize,
    ) -> PyResult<Bound<'py, PyTuple>> {
        let rules = self.core.rules();
        let batch = Batch { rules, is_redelivery, is_known, projected_offset };
        let core = &mut self.core;
        let applied = py.detach(|| {
            guarded(|| {
                let applied = core.apply(&batch, &operations);
                core.evict(most_bytes);
                applied
            })
        })?;
        to_python(py, &applied)
    }

    /// Forgets bookings; they are loaded again when they are next needed.
    fn forget(&mut self, bookings: Vec<Vec<u8>>) {
        for booking in bookings {
            self.core.forget(&booking);
        }
    }

    /// Bookings in memory, and about how many bytes they take.
    fn size(&self) -> (usize, usize) {
        self.core.size()
    }
}

/// Decodes a typical booking record from its value in structured mode: (bookingId, None if the booking was deleted, otherwise
/// its fields and its listed sessions as `worker.domain.booking_content` encodes them). None: the explaining decoder decodes it.
#[pyfunction]
#[allow(clippy::type_complexity)]
pub fn decode_booking<'py>(
    py: Python<'py>,
    value: &[u8],
) -> PyResult<Option<(Bound<'py, PyString>, Option<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>)>> {
    let decoded = guarded(|| crate::decode_booking::decode_booking(value))?;
    Ok(decoded.map(|DecodedBooking { booking, content }| {
        let content = content.map(|each| (PyBytes::new(py, &each.fields), PyBytes::new(py, &each.listed)));
        (PyString::new(py, &booking), content)
    }))
}

/// The value of a record in structured mode, and when it was received, microseconds; None: only the explaining decoder can tell.
fn value_of(record: &Bound<'_, PyAny>) -> PyResult<Option<(PyBackedBytes, i64)>> {
    let py = record.py();
    let timestamp: i64 = record.getattr(intern!(py, "timestamp"))?.extract()?;
    let headers = record.getattr(intern!(py, "headers"))?;
    let mut received = Some(time::of_timestamp(timestamp));
    if headers.is_truthy()? {
        for header in headers.try_iter()? {
            let (name, content): (PyBackedStr, Option<PyBackedBytes>) = header?.extract()?;
            received = received.and_then(|received| received_with(received, &name, content.as_deref()));
        }
    }
    let value: Option<PyBackedBytes> = record.getattr(intern!(py, "value"))?.extract()?;
    Ok(value.zip(received))
}

/// When a record was received, with one more of its headers; None: this header is not simple.
fn received_with(received: i64, name: &str, content: Option<&[u8]>) -> Option<i64> {
    if name.eq_ignore_ascii_case("ce_specversion") {
        return None;
    }
    match content {
        Some(content) if name.eq_ignore_ascii_case("attendance-received") => Some(received.min(time::parse(content)?)),
        _ => Some(received),
    }
}

fn to_python<'py>(py: Python<'py>, applied: &Applied) -> PyResult<Bound<'py, PyTuple>> {
    let rows = PyList::empty(py);
    for group in &applied.rows {
        rows.append(records(py, group)?)?;
    }
    let entries = &applied.entries;
    let erasing = PyList::new(py, applied.erasing.iter().map(|each| text(py, each)))?;
    (
        rows,
        records(py, &applied.booking_rows)?,
        packed(py, &entries.pairs)?,
        packed(py, &entries.bookings)?,
        packed(py, &entries.alerts)?,
        records(py, &applied.alerts)?,
        by_type(py, &applied.unchanged)?,
        erasing,
    )
        .into_pyobject(py)
}

fn records<'py>(py: Python<'py>, records: &[Record]) -> PyResult<Bound<'py, PyList>> {
    let pair = |(key, value): &Record| (PyBytes::new(py, key), value.as_ref().map(|value| PyBytes::new(py, value)));
    PyList::new(py, records.iter().map(pair).map(|each| each.into_pyobject(py)).collect::<PyResult<Vec<_>>>()?)
}

fn packed<'py>(py: Python<'py>, entries: &[Vec<u8>]) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, entries.iter().map(|entry| PyBytes::new(py, entry)))
}

fn by_type<'py>(py: Python<'py>, counts: &[u32; 7]) -> PyResult<Bound<'py, PyDict>> {
    let found = PyDict::new(py);
    for (kind, count) in Kind::ALL.into_iter().zip(counts).filter(|(_, count)| **count > 0) {
        found.set_item(text(py, kind.name()), count)?;
    }
    Ok(found)
}

fn text<'py>(py: Python<'py>, bytes: &[u8]) -> Bound<'py, PyString> {
    PyString::new(py, &String::from_utf8_lossy(bytes))
}

/// Runs code of the core; a panic, which is a fault of this crate, becomes an error that ends the worker as any other.
pub fn guarded<T>(work: impl FnOnce() -> T) -> PyResult<T> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| PyRuntimeError::new_err("the native core failed: set ATTENDANCE_CORE=python"))
}

fn load_error(error: &LoadError) -> PyErr {
    match error {
        LoadError::OtherFormat(format) => PyValueError::new_err(*format),
        LoadError::Damaged => PyRuntimeError::new_err("a row of the tables is damaged"),
    }
}
