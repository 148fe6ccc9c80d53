use super::{DeviceClass, DeviceProfile};
use crate::gpu::{Caps, Matrices};

/// A device, as its driver reports it to wgpu.
struct Known {
    name: &'static str,
    class: DeviceClass,
    f16: bool,
    /// Smallest and largest subgroup, where the backend has subgroups. Metal's is known to be 32, though wgpu reports 4 to 64.
    subgroups: Option<(u32, u32)>,
    /// The cooperative matrices of which wgpu lists square ones with f32 sums: f32 of 8, f16 of 8, f16 of 16.
    matrices: [bool; 3],
    binding_mib: u64,
    workgroup_kib: u32,
    browser: bool,
}

const NO_MATRICES: [bool; 3] = [false; 3];

/// lavapipe is Mesa 22.3.6's. GPUs are as their Vulkan drivers (Mesa 26.2 or the vendor's) and Metal describe them.
const KNOWN: [Known; 13] = {
    use DeviceClass::{Discrete, Integrated, Software};
    [
        known("lavapipe", Software, true, Some((8, 8)), NO_MATRICES, 128, 32),
        known("SwiftShader", Software, false, Some((4, 4)), NO_MATRICES, 1024, 32),
        known("Apple M1", Integrated, true, Some((32, 32)), [true, true, false], 4095, 32),
        known("Apple M1 Max", Integrated, true, Some((32, 32)), [true, true, false], 4095, 32),
        known("Apple M3 Max", Integrated, true, Some((32, 32)), [true, true, false], 4095, 32),
        known("RTX 3060", Discrete, true, Some((32, 32)), [false, false, true], 2047, 48),
        known("RTX 4090", Discrete, true, Some((32, 32)), [false, false, true], 2047, 48),
        known("RX 7900 XTX", Discrete, true, Some((32, 64)), [false, false, true], 2047, 64),
        known("RX 9070 XT", Discrete, true, Some((32, 64)), [false, false, true], 2047, 64),
        // XMX matrices are 8 by 16 by 16.
        known("Arc A770", Discrete, true, Some((8, 32)), NO_MATRICES, 1023, 64),
        known("Adreno 750", Integrated, true, Some((64, 128)), NO_MATRICES, 128, 32),
        // Kernels for GPUs use subgroups with matrices only, and WebGPU has none.
        in_browser(known("browser", Discrete, true, None, NO_MATRICES, 128, 16)),
        in_browser(known("browser, lavapipe", Software, true, Some((8, 8)), NO_MATRICES, 128, 32)),
    ]
};

const fn known(
    name: &'static str,
    class: DeviceClass,
    f16: bool,
    subgroups: Option<(u32, u32)>,
    matrices: [bool; 3],
    binding_mib: u64,
    workgroup_kib: u32,
) -> Known {
    Known { name, class, f16, subgroups, matrices, binding_mib, workgroup_kib, browser: false }
}

const fn in_browser(known: Known) -> Known {
    Known { browser: true, ..known }
}

impl DeviceProfile {
    /// Returns the profiles of well-known devices, each with its name.
    pub fn known() -> Vec<(&'static str, Self)> {
        KNOWN.iter().map(|known| (known.name, known.profile())).collect()
    }
}

impl Known {
    fn profile(&self) -> DeviceProfile {
        let [f32_8, f16_8, f16_16] = self.matrices;
        let binding = self.binding_mib << 20;
        let caps = Caps {
            pack_f16: true,
            f16: self.f16,
            subgroups: self.subgroups.is_some(),
            software_subgroup_8: self.class == DeviceClass::Software
                && self.subgroups.is_some_and(|(smallest, _)| smallest >= 8),
            matrices: Matrices { f32_8, f16_8, f16_16 },
            max_binding_bytes: binding,
            max_buffer_bytes: binding.max(Caps::portable().max_buffer_bytes),
            max_workgroup_bytes: self.workgroup_kib << 10,
            ..Caps::portable()
        };
        DeviceProfile { class: self.class, caps, browser: self.browser }
    }
}
