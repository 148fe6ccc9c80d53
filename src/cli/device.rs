//! Selecting and opening a device.

use ferrum_wgpu::KvType;
use ferrum_wgpu::{
    Adapter, AdapterKind, Device, GpuError,
    low_level::gpu::{Caps, WaitMode},
};

use super::exit::Failure;
use super::output::note;

/// Models up to this size fall back to the CPU if there is no GPU adapter.
const CPU_FALLBACK_MAX_BYTES: u64 = 1 << 30;

/// The device that a command uses.
#[derive(Debug)]
pub enum DeviceChoice {
    /// The CPU reference kernels.
    Cpu,
    /// A GPU adapter.
    Adapter(Box<Adapter>),
}

impl DeviceChoice {
    /// Selects the device given by `--device`, by default the first adapter.
    pub async fn choose(wanted: Option<&str>) -> Result<Self, Failure> {
        if wanted == Some("cpu") {
            return Ok(Self::Cpu);
        }
        Adapter::find(wanted).await.map(Self::on).map_err(with_hint)
    }

    /// Selects a device like [`DeviceChoice::choose`], but falls back to the CPU for a small model if there is no
    /// adapter and none was requested.
    pub async fn choose_for(wanted: Option<&str>, model_bytes: u64) -> Result<Self, Failure> {
        if wanted.is_some() || model_bytes >= CPU_FALLBACK_MAX_BYTES {
            return Self::choose(wanted).await;
        }
        match Adapter::find(None).await {
            Err(GpuError::NoAdapter) => {
                note(format_args!("note: no GPU adapter was found; computing on the CPU, which is slow"));
                Ok(Self::Cpu)
            }
            found => found.map(Self::on).map_err(with_hint),
        }
    }

    fn on(adapter: Adapter) -> Self {
        Self::Adapter(Box::new(adapter))
    }

    /// Opens the device and reports its name on standard error.
    pub async fn open(&self) -> Result<Device, Failure> {
        self.open_masked(None).await
    }

    /// Returns the capabilities of the device when opened with `mask`.
    pub fn caps(&self, mask: Option<&Caps>) -> Caps {
        let caps = match self {
            Self::Cpu => Device::cpu().caps().clone(),
            Self::Adapter(adapter) => adapter.caps(),
        };
        mask.map_or(caps.clone(), |mask| caps.and(mask))
    }

    /// Returns the default data type of the KV cache.
    pub fn kv_type(&self) -> KvType {
        if self.caps(None).pack_f16 { KvType::F16 } else { KvType::F32 }
    }

    /// Opens the device like [`DeviceChoice::open`], with capabilities reduced to `mask`, which the CPU ignores.
    pub async fn open_masked(&self, mask: Option<&Caps>) -> Result<Device, Failure> {
        let Self::Adapter(adapter) = self else {
            note(format_args!("device: cpu"));
            return Ok(Device::cpu());
        };
        let device = Device::masked(adapter, &self.caps(mask)).await?;
        device.set_wait_mode(WaitMode::Blocking);
        let (name, backend, kind, driver) = (adapter.name(), adapter.backend(), adapter.kind(), adapter.driver());
        note(format_args!("device: {name} ({backend}, {kind}, {driver})"));
        if kind == AdapterKind::Software {
            note(format_args!("note: {name} is a software renderer, which is slow"));
        }
        Ok(device)
    }
}

/// Converts the error to a failure; suggests the CPU if there is no adapter.
pub fn with_hint(error: GpuError) -> Failure {
    let hint = matches!(error, GpuError::NoAdapter);
    match Failure::from(error) {
        Failure::Error(code, message) if hint => {
            Failure::Error(code, format!("{message}; `--device cpu` runs without one"))
        }
        failure => failure,
    }
}
