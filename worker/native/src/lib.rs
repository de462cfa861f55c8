//! The native core of a worker: decodes, folds, judges and projects the events of one partition.
//!
//! Its specification is the Python twin (`worker/domain`, `worker/stream/projection.py`): tests compare both byte for byte. Here
//! are only bytes; Kafka, RocksDB and Redis are the worker's.

mod alert_rules;
mod alerts;
mod applied;
mod booking;
mod booking_record;
mod bytes;
mod change;
mod commands;
mod core;
mod decode;
mod decode_booking;
mod document;
mod event;
mod fold;
#[cfg(fuzzing)]
pub mod fuzzing;
mod hashing;
mod order;
mod project;
mod protocol;
mod python;
mod python_commands;
mod reference;
mod row;
mod sources;
mod summary;
mod time;

use mimalloc::MiMalloc;
use pyo3::prelude::*;

/// Half of the core's time would go to the system's allocator.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[pymodule]
fn attendance_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(python::decode_booking, module)?)?;
    module.add_class::<python::Core>()?;
    module.add_class::<python_commands::Transactions>()
}
