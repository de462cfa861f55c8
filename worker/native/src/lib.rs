//! The native core of a worker: decodes, folds, judges and projects the events of one partition.

use pyo3::prelude::*;

#[pymodule]
fn attendance_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
