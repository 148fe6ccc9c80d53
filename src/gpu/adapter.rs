//! Which adapters there are, in the order in which we would take them.

use std::fmt;

use super::{Caps, GpuError, Matrices, driver::shares_memory};

/// An adapter of this machine and what it says of itself.
#[derive(Clone, Debug)]
pub struct Adapter {
    pub(crate) wgpu: wgpu::Adapter,
    info: wgpu::AdapterInfo,
}

/// The kinds of adapters, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AdapterKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the processor's memory.
    Integrated,
    /// A GPU lent by a host to a virtual machine.
    Virtual,
    /// A kind the driver does not name.
    Other,
    /// A driver that computes on the CPU.
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
    /// All adapters, best first: discrete, integrated, virtual, other, software; within a kind in the system's order.
    ///
    /// GL is asked for only where no other backend has an adapter. Indirect dispatches are not validated by wgpu on
    /// these adapters' devices: their arguments are written by our kernels, within bounds that the kernels keep.
    pub async fn enumerate() -> Vec<Self> {
        Self::all(false).await
    }

    /// For tests: as [`Adapter::enumerate`], but the adapters' devices validate indirect dispatches, as browsers do.
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
            adapters.sort_by_key(Self::kind);
            if !adapters.is_empty() {
                return adapters;
            }
        }
        Vec::new()
    }

    /// The adapter that `wanted` means: an index into [`Adapter::enumerate`]'s order, or a part of a name, whatever its
    /// case. `None` means the first.
    ///
    /// # Errors
    /// [`GpuError::NoAdapter`] when there is none at all, [`GpuError::NoSuchDevice`] when none matches.
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

    /// An adapter that an application found by itself.
    pub fn from_wgpu(adapter: &wgpu::Adapter) -> Self {
        Self { info: adapter.get_info(), wgpu: adapter.clone() }
    }

    fn computes(&self) -> bool {
        // Indirect dispatches are missing only where much else is: any buffer may hold a grid.
        let needed = wgpu::DownlevelFlags::COMPUTE_SHADERS | wgpu::DownlevelFlags::INDIRECT_EXECUTION;
        self.wgpu.get_downlevel_capabilities().flags.contains(needed)
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// The graphics API it is reached through: `vulkan`, `metal`, `dx12`, `gl` or `webgpu`.
    pub fn backend(&self) -> String {
        self.info.backend.to_string()
    }

    /// The driver's name and version.
    pub fn driver(&self) -> String {
        format!("{} {}", self.info.driver, self.info.driver_info).trim().to_owned()
    }

    /// What kind of device it is.
    pub fn kind(&self) -> AdapterKind {
        match self.info.device_type {
            wgpu::DeviceType::DiscreteGpu => AdapterKind::Discrete,
            wgpu::DeviceType::IntegratedGpu => AdapterKind::Integrated,
            wgpu::DeviceType::VirtualGpu => AdapterKind::Virtual,
            wgpu::DeviceType::Cpu => AdapterKind::Software,
            wgpu::DeviceType::Other => AdapterKind::Other,
        }
    }

    /// What a device made from it can do.
    pub fn caps(&self) -> Caps {
        caps_of(&self.wgpu, self.wgpu.features(), &self.wgpu.limits())
    }

    /// Bytes of memory that the device has: of Vulkan's heaps the largest of its own (`VkMemoryHeap::size`), Metal's
    /// `recommendedMaxWorkingSetSize`, DXGI's `Budget` of this process. `None` of OpenGL and in browsers, which do not tell.
    pub fn memory_bytes(&self) -> Option<u64> {
        super::heaps::told(&self.wgpu)
    }

    /// What to ask for when a device is made of it that can do `caps`, as far as it can itself.
    pub fn requirements(&self, caps: &Caps) -> Requirements {
        Requirements::with(&self.caps().and(caps), &self.wgpu)
    }

    /// The features that matter to kernels, by name.
    pub fn features(&self) -> Vec<&'static str> {
        let has = self.wgpu.features();
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

    /// Smallest and largest subgroup the adapter reports, in invocations.
    pub fn subgroup_sizes(&self) -> (u32, u32) {
        (self.info.subgroup_min_size, self.info.subgroup_max_size)
    }
}

/// What a device of `adapter` with these features and limits can do.
pub(crate) fn caps_of(adapter: &wgpu::Adapter, features: wgpu::Features, limits: &wgpu::Limits) -> Caps {
    let flags = adapter.get_downlevel_capabilities().flags;
    let halves = flags.contains(wgpu::DownlevelFlags::SHADER_F16_IN_F32);
    let timestamps = features.contains(wgpu::Features::TIMESTAMP_QUERY);
    let f16 = features.contains(wgpu::Features::SHADER_F16);
    let subgroups = features.contains(wgpu::Features::SUBGROUP);
    let info = adapter.get_info();
    // Metal does not tell: Apple's have 32.
    let shuffles = subgroups && (info.subgroup_min_size >= 8 || info.backend == wgpu::Backend::Metal);
    let small = info.subgroup_max_size <= 32 || info.backend == wgpu::Backend::Metal;
    let lists_matrices = features.contains(wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    let matrices = if lists_matrices && subgroups && small { Matrices::of(adapter) } else { Matrices::default() };
    Caps { f16, shuffles, matrices, timestamps, ..Caps::from_limits(limits, halves, subgroups) }
}

/// Refuses a device that is poorer than WebGPU's defaults, and poorer than its adapter, in what kernels cannot do without.
pub(crate) fn kernels_need(adapter: &wgpu::Adapter, device: &Caps) -> Result<(), GpuError> {
    let best = caps_of(adapter, adapter.features(), &adapter.limits()).and(&Caps::portable());
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

/// What an application asks for when it makes a device that is to be ours too ([`Device::from_wgpu`](super::Device)).
#[derive(Clone, Debug, PartialEq)]
pub struct Requirements {
    /// The features that kernels make use of, that by which compiled pipelines can be kept, and where memory is the
    /// processor's too that by which weights are written straight to it. None of them is indispensable.
    /// `EXPERIMENTAL_COOPERATIVE_MATRIX` is not among them, since wgpu wants an application's own word for experiments; a device
    /// that is made with it multiplies by cooperative matrices.
    pub features: wgpu::Features,
    /// The limits that kernels make use of, as high as the adapter has them; WebGPU's defaults where they are no matter. The
    /// application may raise any of them.
    pub limits: wgpu::Limits,
}

impl Requirements {
    /// All that kernels can use of `adapter`, whatever the model; an engine's `requirements` are those of one.
    pub fn of(adapter: &wgpu::Adapter) -> Self {
        Self::with(&caps_of(adapter, adapter.features(), &adapter.limits()), adapter)
    }

    /// What a device of `adapter` needs to have for `caps`.
    pub(crate) fn with(caps: &Caps, adapter: &wgpu::Adapter) -> Self {
        let mut wanted = wgpu::Features::PIPELINE_CACHE;
        wanted.set(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS, shares_memory(&adapter.get_info()));
        let features = caps.features() | adapter.features() & wanted;
        Self { features, limits: caps.limits(&adapter.limits()) }
    }
}
