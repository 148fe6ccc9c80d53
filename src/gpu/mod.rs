//! The spine below the kernels: devices, buffers, kernel declarations, plans and their running.
//!
//! A [`Kernel`] is declared once; a [`Recorder`] turns dispatches into a [`Plan`], which is data; a [`Program`] is a plan
//! made ready for a [`Device`], and runs it in one compute pass, or by the kernels' twins on the CPU. This is the one
//! module that calls wgpu.

mod adapter;
mod buffer;
mod caps;
mod case;
mod device;
mod error;
#[cfg(not(target_arch = "wasm32"))]
mod inspect;
mod kernel;
mod pipeline;
mod plan;
mod program;
mod source;

pub use adapter::{Adapter, AdapterKind};
pub use buffer::{Buffer, Element, RawBuffer};
pub use caps::Caps;
pub use case::{Case, Deviation, Expect};
pub use device::Device;
pub use error::GpuError;
#[cfg(not(target_arch = "wasm32"))]
pub use inspect::workgroup_bytes;
pub use kernel::{
    Access, Binding, Binds, Data, Expected, Grid, Host, HostSlot, Kernel, NoDefinition, NoOrder, Op, Order,
    PipelineKey, Variant, shader,
};
pub use plan::{Plan, Recorder, Step};
pub use program::{Program, Readback};
pub use source::{Constant, Fragment, Shader, Source};

pub(crate) use kernel::{erase, host_slots, kernel};
pub(crate) use source::wgsl;
