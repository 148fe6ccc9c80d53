//! The check of a device before a model is loaded on it.

use crate::{
    Error,
    conformance::{DeviceCheck, Suite},
    engine::{Engine, EngineOptions},
    gguf::Gguf,
    gpu::Device,
    model::PlannedKernel,
};

/// The cases of a kernel variant that a check runs.
const CASES: usize = 2;

impl DeviceCheck {
    /// Runs a few cases of every kernel that an engine for `gguf` needs on `device`, and compares them with reference results.
    /// Only the header of the file is read, so that a device which computes wrongly can be refused before a model is downloaded.
    /// Calls `progress` with the number of kernels that were run, and of all. What is compiled for it is compiled for engines on
    /// the same device too.
    ///
    /// # Errors
    /// [`Error`] for a file that is no supported model, invalid options, or the loss of the device. Wrong results are part of the
    /// result.
    pub async fn run(
        device: &Device,
        gguf: &Gguf,
        options: &EngineOptions,
        progress: impl FnMut(usize, usize),
    ) -> Result<Self, Error> {
        let planned = Engine::planned_kernels(device, gguf, options).await?;
        Self::run_kernels(device, &planned.kernels, progress).await
    }

    /// Runs what [`DeviceCheck::run`] does for some of the kernels of [`Engine::planned_kernels`].
    ///
    /// # Errors
    /// [`Error`] for the loss of the device.
    pub async fn run_kernels(
        device: &Device,
        kernels: &[PlannedKernel],
        progress: impl FnMut(usize, usize),
    ) -> Result<Self, Error> {
        let suite = Suite::of(device.caps(), |kernel, variant| {
            kernels.iter().any(|planned| planned.kernel == kernel && planned.variant == variant)
        });
        Ok(suite.check(device, CASES, progress).await?)
    }
}
