//! The native part of the Python package `ferrum_wgpu`: the library's engine and conversations.
//!
//! Python's global lock is released while a model is loaded and while a step is computed.
#![recursion_limit = "256"]

mod chat;
mod engine;
mod errors;
mod json;
mod openai;
mod options;
mod reply;
mod wait;

use ferrum_wgpu::{Adapter, block_on};
use pyo3::prelude::*;

/// A device that models can be loaded to.
#[pyclass(frozen, get_all, module = "ferrum_wgpu")]
#[derive(Debug)]
pub struct DeviceInfo {
    /// Its index, for `Engine(device=...)`.
    index: usize,
    /// Its name.
    name: String,
    /// The API that drives it, such as "vulkan".
    backend: String,
    /// Its kind: "discrete", "integrated", "virtual", "software" or "other".
    kind: String,
    /// Its driver.
    driver: String,
    /// Its memory in bytes, if it is known.
    memory_bytes: Option<u64>,
}

#[pymethods]
impl DeviceInfo {
    fn __repr__(&self) -> String {
        format!(
            "DeviceInfo(index={}, name={:?}, backend={:?}, kind={:?})",
            self.index, self.name, self.backend, self.kind
        )
    }
}

/// Return the devices of this machine; the first is the default.
#[pyfunction]
fn devices(py: Python<'_>) -> Vec<DeviceInfo> {
    let adapters = py.detach(|| block_on(Adapter::enumerate()));
    let info = |(index, adapter): (usize, &Adapter)| DeviceInfo {
        index,
        name: adapter.name().to_owned(),
        backend: adapter.backend(),
        kind: adapter.kind().to_string(),
        driver: adapter.driver(),
        memory_bytes: adapter.memory_bytes(),
    };
    adapters.iter().enumerate().map(info).collect()
}

/// The native part of ferrum_wgpu.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(devices, module)?)?;
    module.add_class::<DeviceInfo>()?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<chat::Chat>()?;
    module.add_class::<reply::Reply>()?;
    module.add_class::<openai::CompletionStream>()?;
    errors::add(module)
}
