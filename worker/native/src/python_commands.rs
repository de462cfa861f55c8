//! The commands of transactions as Python sees them.

use crate::commands::{Builder, Names, needs_script};
use crate::python::guarded;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyList};
use std::collections::HashMap;

/// Makes the commands of transactions that apply entries to the read models.
#[pyclass(frozen, module = "attendance_native")]
pub struct Transactions {
    names: Names,
    shift: u32,
}

#[pymethods]
impl Transactions {
    /// `names`: what follows the prefix of a key generation, by the names of `worker/read_model/keys.py`. `shift`: `DOC_SHIFT`.
    #[new]
    fn new(mut names: HashMap<String, String>, shift: u32) -> PyResult<Self> {
        let mut take = |name: &str| match names.remove(name) {
            Some(key) => Ok(key.into_bytes()),
            None => Err(PyValueError::new_err(format!("no key is named {name}"))),
        };
        let names = Names {
            doc: take("DOC")?,
            ids: take("IDS")?,
            tally: take("TALLY")?,
            sessions: take("SESSIONS")?,
            sessions_start: take("SESSIONS_START")?,
            roster: take("ROSTER")?,
            by_status: take("BY_STATUS")?,
            unlisted: take("UNLISTED")?,
            by_booking: take("BY_BOOKING")?,
            booking: take("BOOKING")?,
            no_shows: take("NO_SHOWS")?,
            alerts: take("ALERTS")?,
            alerts_at: take("ALERTS_AT")?,
            alerts_kind: take("ALERTS_KIND")?,
            alerts_session: take("ALERTS_SESSION")?,
            alerts_booking: take("ALERTS_BOOKING")?,
            devices: take("DEVICES")?,
            devices_at: take("DEVICES_AT")?,
        };
        Ok(Self { names, shift })
    }

    /// Entries of pairs that transactions can apply, and those that need the script, each in their order.
    fn split<'py>(&self, py: Python<'py>, pairs: &Bound<'py, PyList>) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyList>)> {
        let (plain, others) = (PyList::empty(py), PyList::empty(py));
        for pair in pairs {
            let needs = needs_script(pair.cast::<PyBytes>()?.as_bytes());
            if needs { &others } else { &plain }.append(pair)?;
        }
        Ok((plain, others))
    }

    /// The commands for entries of pairs, bookings, alerts and devices, in the protocol of Redis; how many; the sessions that
    /// count as changed.
    ///
    /// Raises ValueError: an entry is damaged, or needs the script.
    #[allow(clippy::type_complexity)]
    fn commands<'py>(
        &self,
        py: Python<'py>,
        prefix: &[u8],
        pairs: Vec<PyBackedBytes>,
        bookings: Vec<PyBackedBytes>,
        alerts: Vec<PyBackedBytes>,
        devices: Vec<PyBackedBytes>,
    ) -> PyResult<(Bound<'py, PyBytes>, usize, Vec<Bound<'py, PyBytes>>)> {
        let made = py.detach(|| {
            guarded(|| {
                let mut builder = Builder::new(&self.names, prefix, self.shift);
                pairs.iter().try_for_each(|each| builder.pair(each))?;
                bookings.iter().try_for_each(|each| builder.booking(each))?;
                alerts.iter().try_for_each(|each| builder.alert(each))?;
                devices.iter().try_for_each(|each| builder.device(each))?;
                Some(builder.finish())
            })
        })?;
        let made = made.ok_or_else(|| PyValueError::new_err("an entry is damaged, or needs the script"))?;
        let sessions = made.sessions.iter().map(|each| PyBytes::new(py, each)).collect();
        Ok((PyBytes::new(py, &made.packed), made.count, sessions))
    }
}
