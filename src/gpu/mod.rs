//! The spine below the kernels: devices, buffers, kernel declarations, plans and their running.
//!
//! A [`Kernel`] is declared once; a [`Recorder`] turns dispatches into a [`Plan`], which is data; a [`Program`] is a plan
//! made ready for a [`Device`], and runs it in compute passes, or by the kernels' CPU kernels on the CPU. This is the one module
//! that calls wgpu.

mod adapter;
mod buffer;
mod caps;
mod case;
mod cpu_kernel;
mod cut;
mod device;
mod driver;
mod encode;
mod error;
mod error_scope;
mod heaps;
mod host_steps;
#[cfg(not(target_arch = "wasm32"))]
mod inspect;
mod kept;
mod kernel;
mod pipeline;
mod plan;
mod profile;
mod program;
mod readback;
mod source;
mod stage;
mod wait;

pub use adapter::{Adapter, AdapterKind, Requirements};
pub use buffer::{Buffer, Element, RawBuffer};
pub use caps::{Caps, Matrices};
pub use case::{Case, Deviation, Expect, Packing};
pub use device::{Created, Device};
pub use error::{Cause, GpuError};
#[cfg(not(target_arch = "wasm32"))]
pub use inspect::workgroup_bytes;
pub use kernel::{
    Access, Binding, Binds, Data, Declaration, Expected, Grid, Host, HostSlot, Kernel, Op, Param, PipelineKey,
    ReductionOrder, SparseReads, SparseUnit, Variant, shader,
};
pub use plan::{Plan, Recorder, Step};
pub use profile::StageTime;
pub use program::Program;
pub use readback::{Pending, Readback};
pub use source::{Constant, Fragment, Shader, Source};
pub use stage::{Scope, Stage};

pub(crate) use driver::lock;
pub(crate) use kernel::{erase, host_slots, kernel, param_group, times};
pub(crate) use plan::{Acting, HostAction};
pub(crate) use source::wgsl;
