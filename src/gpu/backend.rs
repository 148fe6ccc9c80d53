//! A GPU: its context and its compiled pipelines.

use super::{context::Context, pipeline::Pipelines};

/// A GPU as a [`Device`](super::Device) uses it.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(super) context: Context,
    pub(super) pipelines: Pipelines,
    /// Whether weights can be written straight to mapped buffers at no cost to kernels.
    pub(super) maps_buffers: bool,
}
