//! Devices, buffers, kernel declarations, and the recording and execution of plans.
//!
//! A [`Kernel`] has a declaration and an implementation. A [`Recorder`] collects dispatches into a [`Plan`], which is data. A
//! [`Program`] is a plan prepared for a [`Device`]: it runs in compute passes on a GPU, or by the CPU kernels. This is the only
//! module that calls wgpu.
//!
//! Files depend on each other in this order: `error`, `caps`, `binding`, `source`, `kernel`, `op`, `plan` (data);
//! `adapter`, `poller`, `context`, `wait`, `pipeline`, `backend` (wgpu); `device`; `readback`, `encode`, `program`, `profile`.

mod adapter;
mod adapter_memory;
mod backend;
mod binding;
#[cfg(target_arch = "wasm32")]
mod browser;
mod buffer;
mod caps;
mod clock;
mod context;
mod counters;
mod cpu_kernel;
mod declare;
mod device;
mod encode;
mod error;
mod error_scope;
mod expect;
mod hooks;
mod host_steps;
#[cfg(not(target_arch = "wasm32"))]
mod inspect;
mod kernel;
mod op;
mod pipeline;
mod pipeline_cache;
mod plan;
#[cfg_attr(target_arch = "wasm32", allow(dead_code))]
mod poller;
mod profile;
mod program;
mod readback;
mod source;
mod stage;
mod submissions;
mod wait;
mod watchdog;

pub use adapter::{Adapter, AdapterKind, Requirements};
pub use binding::{Access, Binding, Grid, ReductionOrder, SparseReads, SparseUnit};
pub use buffer::{Buffer, Element, RawBuffer};
pub use caps::{Caps, Matrices};
#[cfg(feature = "test-util")]
pub use counters::Created;
pub use device::Device;
pub use error::{Cause, GpuError, error_chain};
pub use expect::{Deviation, Expect, Packing};
#[cfg(not(target_arch = "wasm32"))]
pub use inspect::workgroup_bytes;
pub use kernel::{Binds, Case, Data, Declaration, Expected, Host, HostSlot, Kernel, Param, Variant};
pub use op::{Op, PipelineKey, shader};
pub use plan::{Plan, Recorder, Step};
pub use poller::WaitMode;
pub use profile::StageTime;
pub use program::Program;
pub use readback::{Pending, Readback};
pub use source::{Constant, Fragment, Shader, Source};
pub use stage::{Scope, Stage};

pub(crate) use binding::times;
pub(crate) use clock::Instant;
pub(crate) use context::lock;
pub(crate) use declare::{kernel, param_group};
pub(crate) use kernel::host_slots;
pub(crate) use op::erase;
pub(crate) use plan::{Acting, HostAction};
pub(crate) use source::wgsl;
