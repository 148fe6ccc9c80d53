use crate::gpu::{Caps, Device};

/// The properties of a device that decide which kernels it runs: plain data, so that selections are tested without a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceProfile {
    /// Where it computes, and with which memory.
    pub class: DeviceClass,
    /// Its capabilities, with those cooperative matrices only that have passed their self-test.
    pub caps: Caps,
    /// Whether it is a browser's, where a first reply waits for kernels to be compiled.
    pub browser: bool,
}

/// A class of devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum DeviceClass {
    /// A driver that computes on the CPU, as lavapipe, SwiftShader and WARP do.
    Software,
    /// A GPU that shares the memory of the CPU: some ten compute units.
    Integrated,
    /// A GPU with memory of its own, or one that does not tell (a browser's): dozens of compute units. wgpu does not
    /// report their number.
    Discrete,
}

impl DeviceProfile {
    /// Returns the profile of `device`.
    pub fn new(device: &Device) -> Self {
        let class = match device.is_software() {
            true => DeviceClass::Software,
            false if device.shares_memory() => DeviceClass::Integrated,
            false => DeviceClass::Discrete,
        };
        Self {
            class,
            caps: Caps { matrices: device.trusted_matrices(), ..device.caps().clone() },
            browser: cfg!(target_arch = "wasm32"),
        }
    }
}
