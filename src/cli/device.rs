//! Choosing and opening the device.

use ferrum_wgpu::gpu::{Adapter, AdapterKind, Caps, Device, GpuError};
use ferrum_wgpu::kernels::KvType;

use super::exit::Failure;
use super::output::note;

/// Models up to this size are run on the CPU without being asked to, where there is no adapter.
const SMALL: u64 = 1 << 30;

/// Where a command computes.
#[derive(Debug)]
pub enum Place {
    /// By the kernels' CPU kernels.
    Cpu,
    /// On an adapter.
    Adapter(Box<Adapter>),
}

impl Place {
    /// The place that `--device` means; without it the first adapter.
    pub async fn choose(wanted: Option<&str>) -> Result<Self, Failure> {
        if wanted == Some("cpu") {
            return Ok(Self::Cpu);
        }
        Adapter::find(wanted).await.map(Self::on).map_err(with_hint)
    }

    /// As [`Place::choose`]; but where there is no adapter at all, a small model is run on the CPU if nothing else was
    /// asked for.
    pub async fn choose_for(wanted: Option<&str>, model_bytes: u64) -> Result<Self, Failure> {
        if wanted.is_some() || model_bytes >= SMALL {
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

    /// Opens the device and names it on standard error.
    pub async fn open(&self) -> Result<Device, Failure> {
        self.open_masked(None).await
    }

    /// What a device that is opened with `mask` can do.
    pub fn caps(&self, mask: Option<&Caps>) -> Caps {
        let caps = match self {
            Self::Cpu => Device::cpu().caps().clone(),
            Self::Adapter(adapter) => adapter.caps(),
        };
        mask.map_or(caps.clone(), |mask| caps.and(mask))
    }

    /// How a KV cache is stored there unless something else is asked for.
    pub fn kv_type(&self) -> KvType {
        if self.caps(None).pack_f16 { KvType::F16 } else { KvType::F32 }
    }

    /// As [`Place::open`], but the device can do no more than `mask`. The CPU kernels do not mind.
    pub async fn open_masked(&self, mask: Option<&Caps>) -> Result<Device, Failure> {
        let Self::Adapter(adapter) = self else {
            note(format_args!("device: cpu"));
            return Ok(Device::cpu());
        };
        let device = Device::masked(adapter, &self.caps(mask)).await?;
        let (name, backend, kind, driver) = (adapter.name(), adapter.backend(), adapter.kind(), adapter.driver());
        note(format_args!("device: {name} ({backend}, {kind}, {driver})"));
        if kind == AdapterKind::Software {
            note(format_args!("note: {name} is a software device; it is slow"));
        }
        Ok(device)
    }
}

/// The failure, with the way out where there is no adapter.
pub fn with_hint(error: GpuError) -> Failure {
    let hint = matches!(error, GpuError::NoAdapter);
    match Failure::from(error) {
        Failure::Error(code, message) if hint => Failure::Error(code, format!("{message}; `--device cpu` needs none")),
        failure => failure,
    }
}
