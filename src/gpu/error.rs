use std::{error::Error, fmt, sync::Arc, time::Duration};

/// An error from an adapter, a device, its memory, a shader or a submission.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// A host operation between two dispatches failed, such as loading weights from a file.
    #[error(transparent)]
    Host(Cause),
    /// No adapter was found.
    #[cfg_attr(
        not(target_arch = "wasm32"),
        error("no GPU adapter was found (a Vulkan, Metal, DX12 or GL driver is needed)")
    )]
    #[cfg_attr(
        target_arch = "wasm32",
        error(
            "no GPU adapter was found: this browser has no WebGPU, does not use this GPU for it, or the page is not in a \
            secure context (https or localhost)"
        )
    )]
    NoAdapter,
    /// No adapter has the requested index or name.
    #[error("no device matches {wanted:?}; available: {available}")]
    NoSuchDevice {
        /// The requested index or name.
        wanted: String,
        /// The names of the available adapters.
        available: String,
    },
    /// The driver failed to create a device.
    #[error("cannot create a device on {adapter}")]
    RequestDevice {
        /// The adapter's name.
        adapter: String,
        /// The driver's error.
        source: wgpu::RequestDeviceError,
    },
    /// The application's device was created with limits below those of [`Requirements`](super::Requirements).
    #[error("the device on {adapter} was created with {has} {what}, but kernels need {needs} (see `Requirements`)")]
    Unsuited {
        /// The adapter's name.
        adapter: String,
        /// The name of the limit.
        what: &'static str,
        /// The device's limit.
        has: u32,
        /// The limit needed.
        needs: u32,
    },
    /// A buffer exceeds the device's limits.
    #[error("{label} needs {bytes} bytes, but the device's limit for a storage binding is {limit}")]
    TooLarge {
        /// The buffer's label.
        label: String,
        /// Its size in bytes.
        bytes: u64,
        /// The device's limit in bytes.
        limit: u64,
    },
    /// The device is out of memory.
    #[error("out of device memory for {label} ({bytes} bytes)")]
    OutOfMemory {
        /// The label of the allocation.
        label: String,
        /// The requested size in bytes.
        bytes: u64,
    },
    /// A kernel does not compile on the device.
    #[error("kernel {kernel} ({variant}) does not compile on {adapter}: {message}")]
    Shader {
        /// The kernel's name.
        kernel: &'static str,
        /// The variant in `Debug` format.
        variant: String,
        /// The adapter's name.
        adapter: String,
        /// The compiler's message, with line numbers mapped to the WGSL files.
        message: String,
    },
    /// A dispatch exceeds the device's limit of workgroups.
    #[error("kernel {kernel} needs {x} x {y} workgroups, which exceeds the device's limit")]
    GridTooLarge {
        /// The kernel's name.
        kernel: &'static str,
        /// Workgroups along x.
        x: u32,
        /// Workgroups along y.
        y: u32,
    },
    /// A dispatch uses a buffer twice, at least once for writing.
    #[error("kernel {kernel} uses buffer {buffer} twice, at least once for writing")]
    Aliased {
        /// The kernel's name.
        kernel: &'static str,
        /// The buffer's label.
        buffer: String,
    },
    /// An access is out of bounds of a buffer, or the buffer belongs to another device.
    #[error("{what} is out of bounds of buffer {buffer}, or the buffer belongs to another device")]
    OutOfRange {
        /// The operation.
        what: &'static str,
        /// The buffer's label.
        buffer: String,
    },
    /// A program was submitted whose plan has steps on the host: they wait for the GPU.
    #[error("the plan has steps on the host, so that it cannot be submitted without waiting")]
    HostSteps,
    /// Profiling is not supported: the device has no timestamp queries, or the host (a browser) no clock.
    #[error("{device} does not support timestamps, which profiling needs")]
    NoTimestamps {
        /// The device's name.
        device: String,
    },
    /// All staging buffers of a [`Readback`](super::Readback) are in use.
    #[error("all {depth} staging buffers of a readback are in use")]
    ReadbackFull {
        /// The number of staging buffers.
        depth: usize,
    },
    /// The result of a readback was already taken.
    #[error("the result of the readback was already taken")]
    AlreadyRead,
    /// A program was used on another device than the one it was created for.
    #[error("the program was created for another device")]
    OtherDevice,
    /// wgpu rejected a call.
    #[error("wgpu rejected {what}")]
    Validation {
        /// The operation.
        what: String,
        /// wgpu's error.
        source: Cause,
    },
    /// The device was lost: a driver reset, its removal, or a time limit.
    #[error("the GPU device was lost")]
    Lost(#[source] Cause),
    /// The device made no progress until the deadline ([`Device::set_deadline`](super::Device::set_deadline)) and
    /// counts as lost.
    #[error("the GPU device hangs: no progress for {waited:?}")]
    Hung {
        /// The time waited.
        waited: Duration,
    },
}

/// The source of a [`GpuError`], shared by its clones.
pub type Cause = Arc<dyn Error + Send + Sync>;

impl GpuError {
    /// Creates an error for a lost device.
    pub(crate) fn lost(cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Lost(Arc::from(cause.into()))
    }

    /// Returns whether the device is lost: every call fails from now on.
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Hung { .. })
    }

    /// Converts wgpu's error from the operation `what`.
    pub(crate) fn from_wgpu(error: wgpu::Error, what: impl fmt::Display) -> Self {
        match error {
            wgpu::Error::OutOfMemory { .. } => Self::OutOfMemory { label: what.to_string(), bytes: 0 },
            other => Self::Validation { what: what.to_string(), source: cause(other) },
        }
    }
}

/// Joins the messages of an error and its sources, skipping those contained in an earlier one.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        source = error.source();
    }
    text
}

#[cfg(not(target_arch = "wasm32"))]
fn cause(error: wgpu::Error) -> Cause {
    Arc::new(error)
}

/// Keeps the message alone: errors from a browser are not `Send`.
#[cfg(target_arch = "wasm32")]
fn cause(error: wgpu::Error) -> Cause {
    Arc::from(Box::<dyn Error + Send + Sync>::from(error.to_string()))
}
