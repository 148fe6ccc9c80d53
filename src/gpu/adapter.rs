//! Adapters and their capabilities.

use std::fmt;

use super::{Caps, GpuError, Matrices, adapter_memory};

/// An adapter of this machine.
#[derive(Clone, Debug)]
pub struct Adapter {
    pub(super) wgpu: wgpu::Adapter,
    pub(super) info: wgpu::AdapterInfo,
}

/// A kind of adapter. The best kind comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum AdapterKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the processor's memory.
    Integrated,
    /// A GPU of a virtual machine.
    Virtual,
    /// A kind that the driver does not name.
    Other,
    /// A driver that computes on the processor.
    Software,
}

impl fmt::Display for AdapterKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Other => "other",
            Self::Software => "software",
        })
    }
}

impl Adapter {
    /// Returns all adapters, best first: discrete, integrated, virtual, other, software; within a kind in the system's order.
    ///
    /// GL adapters are listed only if no other backend has one. wgpu does not validate indirect dispatches on devices of
    /// these adapters: this library's kernels write their arguments and keep within bounds.
    pub async fn enumerate() -> Vec<Self> {
        Self::all(false).await
    }

    /// Returns the same as [`Adapter::enumerate`], but devices of these adapters validate indirect dispatches, as browsers
    /// do.
    #[cfg(feature = "test-util")]
    pub async fn enumerate_validating() -> Vec<Self> {
        Self::all(true).await
    }

    async fn all(validate_indirect: bool) -> Vec<Self> {
        for backends in [wgpu::Backends::PRIMARY, wgpu::Backends::GL] {
            let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
            descriptor.backends = backends;
            descriptor.flags.set(wgpu::InstanceFlags::VALIDATION_INDIRECT_CALL, validate_indirect);
            let found = wgpu::Instance::new(descriptor).enumerate_adapters(backends).await;
            let mut adapters: Vec<Self> = found.iter().map(Self::from_wgpu).filter(Self::computes).collect();
            #[cfg(target_arch = "wasm32")]
            for adapter in &mut adapters {
                super::browser::describe(&adapter.wgpu, &mut adapter.info).await;
            }
            adapters.sort_by_key(Self::kind);
            if !adapters.is_empty() {
                return adapters;
            }
        }
        Vec::new()
    }

    /// Finds an adapter by `wanted`: an index into [`Adapter::enumerate`], or a part of a name in any case. `None` means the
    /// first.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`] when the machine has none, [`GpuError::NoSuchDevice`] when none matches.
    pub async fn find(wanted: Option<&str>) -> Result<Self, GpuError> {
        let adapters = Self::enumerate().await;
        if adapters.is_empty() {
            return Err(GpuError::NoAdapter);
        }
        let Some(wanted) = wanted else { return adapters.into_iter().next().ok_or(GpuError::NoAdapter) };
        let available =
            adapters.iter().enumerate().map(|(i, a)| format!("{i}: {}", a.name())).collect::<Vec<_>>().join(", ");
        let position = match wanted.parse::<usize>() {
            Ok(index) => Some(index),
            Err(_) => {
                let wanted = wanted.to_lowercase();
                adapters.iter().position(|a| !wanted.is_empty() && a.name().to_lowercase().contains(&wanted))
            }
        };
        position
            .and_then(|index| adapters.into_iter().nth(index))
            .ok_or_else(|| GpuError::NoSuchDevice { wanted: wanted.to_owned(), available })
    }

    /// Wraps an adapter that the application has found.
    pub fn from_wgpu(adapter: &wgpu::Adapter) -> Self {
        Self { info: adapter.get_info(), wgpu: adapter.clone() }
    }

    fn computes(&self) -> bool {
        // Any buffer may hold the grid of an indirect dispatch.
        let needed = wgpu::DownlevelFlags::COMPUTE_SHADERS | wgpu::DownlevelFlags::INDIRECT_EXECUTION;
        self.wgpu.get_downlevel_capabilities().flags.contains(needed)
    }

    /// Returns the adapter's name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Returns the graphics API: `vulkan`, `metal`, `dx12`, `gl` or `webgpu`.
    pub fn backend(&self) -> String {
        self.info.backend.to_string()
    }

    /// Returns the driver's name and version.
    pub fn driver(&self) -> String {
        format!("{} {}", self.info.driver, self.info.driver_info).trim().to_owned()
    }

    /// Returns its kind.
    pub fn kind(&self) -> AdapterKind {
        match self.info.device_type {
            wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
            wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
            wgpu::DeviceType::Cpu => AdapterKind::Software,
            wgpu::DeviceType::Other => AdapterKind::Other,
        }
    }

    /// Returns the capabilities of a device of it.
    pub fn caps(&self) -> Caps {
        caps_of(&self.wgpu, features_of(&self.wgpu), &self.wgpu.limits())
    }

    /// Returns the bytes of device memory that are free for this process: of Vulkan's device-local heaps the most, its budget
    /// less what is used (`VK_EXT_memory_budget`) or its size where the driver has no budgets; DXGI's `Budget` less
    /// `CurrentUsage`; Metal's `recommendedMaxWorkingSetSize`. `None` for OpenGL and in browsers, which do not report it.
    pub fn memory_bytes(&self) -> Option<u64> {
        adapter_memory::memory_bytes(&self.wgpu)
    }

    /// Returns the device memory that an application can use, in bytes: 15/16 of [`Adapter::memory_bytes`], if that is a
    /// real limit. It is on discrete GPUs and with Metal; other GPUs with unified memory report an arbitrary part of it.
    pub fn memory_budget(&self) -> Option<u64> {
        let reliable = self.kind() == AdapterKind::Discrete || self.backend() == "metal";
        self.memory_bytes().filter(|_| reliable).map(|bytes| bytes - bytes / 16)
    }

    /// Returns what a device of it needs for `caps`, as far as the adapter has them.
    pub fn requirements(&self, caps: &Caps) -> Requirements {
        Requirements::with(&self.caps().and(caps), &self.wgpu)
    }

    /// Returns the names of the features that kernels use.
    pub fn features(&self) -> Vec<&'static str> {
        let has = features_of(&self.wgpu);
        let flags = self.wgpu.get_downlevel_capabilities().flags;
        [
            ("f16", has.contains(wgpu::Features::SHADER_F16)),
            ("f16-kv", flags.contains(wgpu::DownlevelFlags::SHADER_F16_IN_F32)),
            ("subgroups", has.contains(wgpu::Features::SUBGROUP)),
            ("timestamps", has.contains(wgpu::Features::TIMESTAMP_QUERY)),
            ("cooperative-matrix", has.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX)),
            ("pipeline-cache", has.contains(wgpu::Features::PIPELINE_CACHE)),
        ]
        .into_iter()
        .filter_map(|(name, has)| has.then_some(name))
        .collect()
    }

    /// Returns the smallest and largest subgroup size that the adapter reports, in invocations.
    pub fn subgroup_sizes(&self) -> (u32, u32) {
        (self.info.subgroup_min_size, self.info.subgroup_max_size)
    }
}

/// Returns the features that a device of `adapter` can have. wgpu does not report subgroups in browsers.
pub(super) fn features_of(adapter: &wgpu::Adapter) -> wgpu::Features {
    let features = adapter.features();
    #[cfg(target_arch = "wasm32")]
    if super::browser::has_subgroups(adapter) {
        return features | wgpu::Features::SUBGROUP;
    }
    features
}

/// Returns whether a device shares the processor's memory, so that mapped buffers cost kernels nothing. D3D12 keeps mapped
/// buffers in a heap that kernels cannot write.
pub(super) fn shares_memory(info: &wgpu::AdapterInfo) -> bool {
    matches!(info.device_type, wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::Cpu)
        && matches!(info.backend, wgpu::Backend::Vulkan | wgpu::Backend::Metal)
}

/// Returns the capabilities of a device of `adapter` with these features and limits.
pub(super) fn caps_of(adapter: &wgpu::Adapter, features: wgpu::Features, limits: &wgpu::Limits) -> Caps {
    let flags = adapter.get_downlevel_capabilities().flags;
    let pack_f16 = flags.contains(wgpu::DownlevelFlags::SHADER_F16_IN_F32);
    let timestamps = features.contains(wgpu::Features::TIMESTAMP_QUERY);
    let f16 = features.contains(wgpu::Features::SHADER_F16);
    let subgroups = features.contains(wgpu::Features::SUBGROUP);
    let info = adapter.get_info();
    let software = info.device_type == wgpu::DeviceType::Cpu;
    let software_subgroup_8 = subgroups && software && info.subgroup_min_size >= 8;
    // Metal does not report subgroup sizes: Apple's GPUs have 32.
    let largest = if info.backend == wgpu::Backend::Metal { 32 } else { info.subgroup_max_size };
    let lists_matrices = features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    let listed = if lists_matrices && subgroups { Matrices::of(adapter) } else { Matrices::default() };
    let matrices = listed.and(Matrices::in_subgroups_of(largest));
    Caps { f16, software_subgroup_8, matrices, timestamps, ..Caps::from_limits(limits, pack_f16, subgroups) }
}

/// Checks that a device has the limits that every kernel needs: WebGPU's defaults, as far as its adapter has them.
pub(super) fn kernels_need(adapter: &wgpu::Adapter, device: &Caps) -> Result<(), GpuError> {
    let best = caps_of(adapter, features_of(adapter), &adapter.limits()).and(&Caps::portable());
    let counts = |caps: &Caps| {
        [
            ("storage buffers", caps.max_storage_buffers),
            ("invocations of a workgroup", caps.max_workgroup_invocations),
            ("bytes of workgroup memory", caps.max_workgroup_bytes),
        ]
    };
    for ((what, has), (_, needs)) in counts(device).into_iter().zip(counts(&best)) {
        if has < needs {
            let adapter = adapter.get_info().name;
            return Err(GpuError::Unsuited { adapter, what, has, needs });
        }
    }
    Ok(())
}

/// The features and limits that an application should create a shared device with ([`Device::from_wgpu`](super::Device)).
#[derive(Clone, Debug, PartialEq)]
pub struct Requirements {
    /// The features that kernels use, `PIPELINE_CACHE`, and `MAPPABLE_PRIMARY_BUFFERS` on devices that share the
    /// processor's memory. All are optional. `EXPERIMENTAL_COOPERATIVE_MATRIX` is not included, since wgpu requires the
    /// application to opt in to experiments; kernels use it on devices that have it.
    pub features: wgpu::Features,
    /// The limits that kernels use, as high as the adapter's, and WebGPU's defaults for the others. The application may raise
    /// any of them.
    pub limits: wgpu::Limits,
}

impl Requirements {
    /// Returns all features and limits of `adapter` that kernels can use. An engine's `requirements` are those of one model.
    pub fn of(adapter: &wgpu::Adapter) -> Self {
        Self::with(&caps_of(adapter, adapter.features(), &adapter.limits()), adapter)
    }

    /// Returns what a device of `adapter` needs for `caps`.
    pub(super) fn with(caps: &Caps, adapter: &wgpu::Adapter) -> Self {
        let mut wanted = wgpu::Features::PIPELINE_CACHE;
        wanted.set(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS, shares_memory(&adapter.get_info()));
        let features = caps.features() | adapter.features() & wanted;
        Self { features, limits: caps.limits(&adapter.limits()) }
    }
}
