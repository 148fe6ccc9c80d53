use std::{fmt, time::Duration};

/// What can go wrong below the kernels: adapters, devices, memory, shaders, submission.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// The host could not do what has to be done between two dispatches, as to bring weights from a file.
    #[error("{0}")]
    Host(String),
    /// The machine offers no adapter at all.
    #[error("no GPU adapter was found (a Vulkan, Metal, DX12 or GL driver is needed)")]
    NoAdapter,
    /// No adapter has the index or name asked for.
    #[error("no device matches {wanted:?}; available: {available}")]
    NoSuchDevice {
        /// The index or name asked for.
        wanted: String,
        /// What there is.
        available: String,
    },
    /// The adapter refused to make a device.
    #[error("{adapter} refused to make a device: {source}")]
    RequestDevice {
        /// The adapter's name.
        adapter: String,
        /// The driver's reason.
        source: wgpu::RequestDeviceError,
    },
    /// An application's device was made with less than kernels need.
    #[error(
        "the device made of {adapter} has {has} {what}, but kernels need {needs}: `Requirements` says what to ask for"
    )]
    Unsuited {
        /// The adapter's name.
        adapter: String,
        /// What there is too little of.
        what: &'static str,
        /// What the device has.
        has: u32,
        /// What kernels need.
        needs: u32,
    },
    /// A buffer is larger than the device allows.
    #[error("{label} needs {bytes} bytes, but the device binds at most {limit}")]
    TooLarge {
        /// What the buffer is for.
        label: String,
        /// Its size in bytes.
        bytes: u64,
        /// The device's limit in bytes.
        limit: u64,
    },
    /// Device memory is exhausted.
    #[error("out of device memory for {label} ({bytes} bytes)")]
    OutOfMemory {
        /// What the memory was for.
        label: String,
        /// The size asked for, in bytes.
        bytes: u64,
    },
    /// A kernel does not compile on this device.
    #[error("kernel {kernel} ({variant}) does not compile on {adapter}: {message}")]
    Shader {
        /// The kernel's name.
        kernel: &'static str,
        /// The variant, as its `Debug` form.
        variant: String,
        /// The adapter's name.
        adapter: String,
        /// The compiler's words, line numbers mapped to the WGSL files.
        message: String,
    },
    /// A dispatch has more workgroups than a device takes, even folded.
    #[error("kernel {kernel} would need {x} x {y} workgroups")]
    GridTooLarge {
        /// The kernel's name.
        kernel: &'static str,
        /// Workgroups along x.
        x: u32,
        /// Workgroups along y.
        y: u32,
    },
    /// One dispatch binds a buffer for writing, and binds it again or takes its grid from it.
    #[error("kernel {kernel} uses {buffer} twice, once for writing")]
    Aliased {
        /// The kernel's name.
        kernel: &'static str,
        /// The buffer's label.
        buffer: String,
    },
    /// A read or a write outside a buffer, or a buffer of another device.
    #[error("{what} is outside of buffer {buffer} or of another device")]
    OutOfRange {
        /// What was tried.
        what: &'static str,
        /// The buffer's label.
        buffer: String,
    },
    /// A program was submitted whose plan has steps on the host: they wait for the GPU.
    #[error("the plan has steps on the host, so that it cannot be submitted without waiting")]
    HostSteps,
    /// There is no clock to time stages by: the device has no timestamps, or the host (in a browser) no clock.
    #[error("{device} cannot time its work")]
    NoTimestamps {
        /// The device's name.
        device: String,
    },
    /// All staging buffers of a [`Readback`](super::Readback) are taken.
    #[error("all {depth} staging buffers of a readback are taken")]
    ReadbackFull {
        /// How many there are.
        depth: usize,
    },
    /// What was read has been handed over before.
    #[error("what was read has been handed over before")]
    AlreadyRead,
    /// A program is used on another device than it was made for.
    #[error("a program is used on another device than it was made for")]
    OtherDevice,
    /// wgpu refused a call.
    #[error("the GPU refused {what}: {message}")]
    Validation {
        /// What was being done.
        what: String,
        /// wgpu's words.
        message: String,
    },
    /// The device is gone: driver reset, removal, or time limit.
    #[error("the GPU device was lost: {0}")]
    Lost(String),
    /// The device's queue has done nothing for as long as it may take
    /// ([`Device::set_deadline`](super::Device::set_deadline)): the device is taken for lost.
    #[error("the GPU device hangs: it has done nothing for {waited:?}")]
    Hung {
        /// How long it was waited for.
        waited: Duration,
    },
}

impl GpuError {
    /// Whether the device is gone, so that it fails every call from now on.
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Hung { .. })
    }

    /// wgpu's error, met while doing `what`.
    pub(crate) fn from_wgpu(error: wgpu::Error, what: impl fmt::Display) -> Self {
        match error {
            wgpu::Error::OutOfMemory { .. } => Self::OutOfMemory { label: what.to_string(), bytes: 0 },
            other => Self::Validation { what: what.to_string(), message: other.to_string() },
        }
    }
}
