use super::{KernelSelection, Precision};
use crate::gpu::Device;

/// Which kernels a forward pass is made of. All choices but `precision` compute the same within the kernels' bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanOptions {
    /// Which kernels rows are given to. `None`: those that suit the device and `precision`.
    pub kernels: Option<KernelSelection>,
    /// How exactly the kernels that suit the device compute; those that are given say it themselves.
    pub precision: Precision,
    /// Operations are fused where a kernel does several; else each has a dispatch of its own.
    pub fused: bool,
    /// Products over experts' buckets take their grids from the device, where the buckets were made; else the grids cover
    /// the most tiles that there can be.
    pub indirect: bool,
    /// Experts are chosen and bucketed by the host.
    pub host_routing: bool,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { kernels: None, precision: Precision::Exact, fused: true, indirect: false, host_routing: false }
    }
}

impl PlanOptions {
    /// Whether activations become int8: only if the kernels say so that are given.
    pub(crate) fn int8(&self) -> bool {
        self.kernels.is_some_and(|kernels| kernels.int8())
    }

    /// The kernels on `device`.
    pub(crate) fn selection_on(&self, device: &Device) -> KernelSelection {
        self.kernels.unwrap_or_else(|| KernelSelection::of(device, self.precision))
    }
}
