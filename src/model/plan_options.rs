use super::{DeviceProfile, KernelSelection, Precision};
use crate::gpu::Device;

/// The kernels of forward passes. Everything but `precision` and `kernels` changes speed only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(default))]
pub struct PlanOptions {
    /// The kernels. `None`: those that [`KernelSelection::select`] returns for the device and `precision`.
    pub kernels: Option<KernelSelection>,
    /// How exactly the selected kernels compute.
    pub precision: Precision,
    /// Whether operations are fused where a kernel does several. If not, each has a dispatch of its own.
    pub fused: bool,
    /// Whether the CPU chooses and sorts experts.
    pub host_routing: bool,
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self { kernels: None, precision: Precision::Exact, fused: true, host_routing: false }
    }
}

impl PlanOptions {
    /// Returns whether activations are int8: only in selections made by hand.
    pub(crate) fn int8(&self) -> bool {
        self.kernels.is_some_and(|kernels| kernels.int8())
    }

    /// Returns the kernels on `device`.
    pub(crate) fn selection_on(&self, device: &Device) -> KernelSelection {
        self.kernels.unwrap_or_else(|| KernelSelection::select(&DeviceProfile::new(device), self.precision))
    }
}
