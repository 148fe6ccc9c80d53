//! A wgpu device with its queue: its errors and its loss. The device is ours, or an application's that we are guests of.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{
    GpuError,
    device::Created,
    error_scope::{Caught, caught},
    pipeline::PipelineCache,
    wait::Patience,
};

/// A wgpu device with its queue.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) pipelines: PipelineCache,
    pub(crate) name: String,
    pub(crate) fingerprint: String,
    pub(crate) software: bool,
    /// Buffers that the processor can write to are as good as others.
    pub(crate) shares_memory: bool,
    pub(crate) allowance: Allowance,
    pub(crate) made: Made,
    pub(crate) patience: Patience,
    owner: Owner,
    /// The reason of the device's loss, or the first error that no scope caught.
    fault: Arc<Mutex<Option<Fault>>>,
    /// Times that somebody waited.
    pub(super) waits: AtomicU64,
    /// Bytes written that the queue has not been waited for, and the most that these have been.
    pub(super) uploading: AtomicU64,
    most_uploading: AtomicU64,
    /// What a browser has not told yet of calls that could not wait for it.
    unanswered: Mutex<Vec<Caught>>,
}

/// Whose device it is.
#[derive(Debug)]
enum Owner {
    /// Ours: it tells us of its loss, and waiting may block.
    Us,
    /// The application's: its handlers stay, and no call of ours blocks.
    Application {
        /// What [`Gpu::refuses_in_silence`] writes to.
        probe: wgpu::Buffer,
    },
}

#[derive(Debug)]
enum Fault {
    Lost(Loss),
    Uncaptured(GpuError),
}

/// How a device was lost.
#[derive(Clone, Debug)]
pub(super) enum Loss {
    /// Somebody said so.
    Told(String),
    /// Its queue did nothing for so long.
    Hung(Duration),
}

impl Loss {
    fn error(&self) -> GpuError {
        match self {
            Self::Told(message) => GpuError::lost(message.as_str()),
            Self::Hung(waited) => GpuError::Hung { waited: *waited },
        }
    }
}

/// How many more allocations succeed: how tests make memory run out.
#[derive(Debug)]
pub(crate) struct Allowance(AtomicU64);

impl Allowance {
    const UNLIMITED: u64 = u64::MAX;

    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(Self::UNLIMITED))
    }

    pub(crate) fn set(&self, allocations: u64) {
        self.0.store(allocations, Ordering::Relaxed);
    }

    /// Whether one more may succeed.
    pub(crate) fn take(&self) -> bool {
        let less = |left: u64| if left == Self::UNLIMITED { None } else { left.checked_sub(1) };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) != Err(0)
    }
}

/// Counts what is created.
#[derive(Debug, Default)]
pub(crate) struct Made {
    pub(crate) buffers: AtomicU64,
    pub(crate) bind_groups: AtomicU64,
    pub(crate) pipelines: AtomicU64,
}

impl Made {
    pub(crate) fn add(what: &AtomicU64) {
        what.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn all(&self) -> Created {
        let [buffers, bind_groups, pipelines] =
            [&self.buffers, &self.bind_groups, &self.pipelines].map(|what| what.load(Ordering::Relaxed));
        Created { buffers, bind_groups, pipelines }
    }
}

/// This engine and its version.
pub(crate) const ENGINE: &str = concat!("ferrum-wgpu ", env!("CARGO_PKG_VERSION"));

/// Staging memory of uploads is freed when their submission is done: this much may be waiting.
const UPLOAD_IN_FLIGHT: u64 = 32 << 20;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a device's memory is the processor's too, and mapping it costs kernels nothing. D3D12 keeps what is mapped in a
/// heap of its own, which kernels cannot write.
pub(super) fn shares_memory(info: &wgpu::AdapterInfo) -> bool {
    matches!(info.device_type, wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::Cpu)
        && matches!(info.backend, wgpu::Backend::Vulkan | wgpu::Backend::Metal)
}

impl Gpu {
    fn new(info: &wgpu::AdapterInfo, device: wgpu::Device, queue: wgpu::Queue, owner: Owner) -> Self {
        let software = info.device_type == wgpu::DeviceType::Cpu;
        let can_map = device.features().contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS);
        Self {
            device,
            queue,
            pipelines: PipelineCache::default(),
            name: info.name.clone(),
            fingerprint: format!("{ENGINE}; {}; {}; {} {}", info.backend, info.name, info.driver, info.driver_info),
            software,
            shares_memory: can_map && shares_memory(info),
            patience: Patience::new(software),
            allowance: Allowance::new(),
            made: Made::default(),
            owner,
            fault: Arc::default(),
            waits: AtomicU64::new(0),
            uploading: AtomicU64::new(0),
            most_uploading: AtomicU64::new(0),
            unanswered: Mutex::default(),
        }
    }

    /// A device that was made here, and that nobody else has.
    pub(crate) fn ours(info: &wgpu::AdapterInfo, device: wgpu::Device, queue: wgpu::Queue) -> Self {
        let gpu = Self::new(info, device, queue, Owner::Us);
        let (lost, uncaptured) = (Arc::clone(&gpu.fault), Arc::clone(&gpu.fault));
        gpu.device.set_device_lost_callback(move |reason, message| {
            if !matches!(reason, wgpu::DeviceLostReason::Destroyed) {
                *lock(&lost) = Some(Fault::Lost(Loss::Told(message)));
            }
        });
        gpu.device.on_uncaptured_error(Arc::new(move |error| {
            lock(&uncaptured).get_or_insert(Fault::Uncaptured(GpuError::from_wgpu(error, "a submission")));
        }));
        gpu
    }

    /// A device of an application, which goes on using it. Nothing is installed on it.
    pub(crate) fn of_application(
        info: &wgpu::AdapterInfo,
        device: wgpu::Device,
        queue: wgpu::Queue,
    ) -> Result<Self, GpuError> {
        let (probe, caught) = caught(&device, || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("ferrum-wgpu probe"),
                size: 4,
                usage: wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        if let Ok(Some(error)) = caught.error_now() {
            return Err(GpuError::from_wgpu(error, "a probe of the device"));
        }
        // A device that is lost already gives an invalid buffer in silence, and refuses every use of it.
        let ((), caught) = self::caught(&device, || queue.write_buffer(&probe, 0, &[]));
        let gpu = Self::new(info, device, queue, Owner::Application { probe });
        match caught.error_now() {
            Ok(Some(error)) => Err(gpu.lose(Loss::Told(error.to_string()))),
            _ => Ok(gpu),
        }
    }

    /// Makes `calls` without waiting, and gives their error. In a browser it is the next wait that gives it. Nothing is asked
    /// of a device that is lost: a driver may not come back from a submission to a queue that hangs.
    pub(crate) fn now<R>(&self, what: &str, calls: impl FnOnce() -> R) -> Result<R, GpuError> {
        if let Some(lost) = self.known_loss() {
            return Err(lost);
        }
        let (value, caught) = caught(&self.device, calls);
        match caught.error_now() {
            Ok(None) => Ok(value),
            Ok(Some(error)) => Err(self.blame(GpuError::from_wgpu(error, what))),
            Err(later) => {
                lock(&self.unanswered).push(later);
                Ok(value)
            }
        }
    }

    /// `error`, unless it is only what the device's loss has caused.
    pub(crate) fn blame(&self, error: GpuError) -> GpuError {
        self.lost().unwrap_or(error)
    }

    /// A wgpu buffer, mapped if it is for that, with an error where wgpu would make an invalid one.
    pub(crate) async fn buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, GpuError> {
        let out_of_memory = || GpuError::OutOfMemory { label: label.to_owned(), bytes };
        if !self.allowance.take() {
            return Err(out_of_memory());
        }
        let (buffer, caught) = caught(&self.device, || {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: bytes,
                usage,
                mapped_at_creation: usage.contains(wgpu::BufferUsages::MAP_WRITE),
            })
        });
        match caught.error().await {
            Some(wgpu::Error::OutOfMemory { .. }) => Err(self.blame(out_of_memory())),
            Some(error) => Err(self.blame(GpuError::from_wgpu(error, label))),
            None => {
                Made::add(&self.made.buffers);
                self.check().map(|()| buffer)
            }
        }
    }

    /// Writes `bytes` before what is submitted later; true when so much is under way that the next write should wait.
    pub(crate) fn write(&self, target: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<bool, GpuError> {
        self.now("a write", || self.queue.write_buffer(target, offset, bytes))?;
        self.check()?;
        let more = bytes.len() as u64;
        let all = self.uploading.fetch_add(more, Ordering::Relaxed) + more;
        self.most_uploading.fetch_max(all, Ordering::Relaxed);
        Ok(all >= UPLOAD_IN_FLIGHT)
    }

    /// Writes `bytes` to a buffer that is mapped.
    pub(crate) fn write_mapped(&self, target: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<(), GpuError> {
        if bytes.is_empty() {
            return self.check();
        }
        let lost = |error: wgpu::MapRangeError| self.blame(GpuError::lost(error));
        let mut view = target.get_mapped_range_mut(offset..offset + bytes.len() as u64).map_err(lost)?;
        view.slice(..).copy_from_slice(bytes);
        self.check()
    }

    /// The most bytes that were written and not waited for.
    pub(crate) fn most_uploading(&self) -> u64 {
        self.most_uploading.load(Ordering::Relaxed)
    }

    /// Times that the host waited for an answer.
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// The errors of calls that could not wait for them.
    pub(super) async fn errors_told_later(&self) -> Result<(), GpuError> {
        loop {
            let Some(later) = lock(&self.unanswered).pop() else { return Ok(()) };
            if let Some(error) = later.error().await {
                return Err(self.blame(GpuError::from_wgpu(error, "a submission")));
            }
        }
    }

    pub(super) fn is_of_application(&self) -> bool {
        matches!(self.owner, Owner::Application { .. })
    }

    /// Destroys a device of ours; one of an application is only refused from now on.
    pub(crate) fn destroy(&self) {
        if !self.is_of_application() {
            self.device.destroy();
        }
        self.lose(Loss::Told("it was destroyed".to_owned()));
    }

    pub(super) fn dropped(&self) -> GpuError {
        self.blame(GpuError::lost("the driver dropped a request"))
    }

    /// Takes the device for lost, if nothing has told more of it before.
    pub(super) fn lose(&self, loss: Loss) -> GpuError {
        let mut fault = lock(&self.fault);
        match &*fault {
            Some(Fault::Lost(first)) => first.error(),
            _ => {
                let error = loss.error();
                *fault = Some(Fault::Lost(loss));
                error
            }
        }
    }

    /// Whether it was lost by hanging.
    pub(super) fn has_hung(&self) -> bool {
        matches!(&*lock(&self.fault), Some(Fault::Lost(Loss::Hung(_))))
    }

    /// The first error that no scope caught, once; a lost device stays lost.
    pub(crate) fn check(&self) -> Result<(), GpuError> {
        if let Some(lost) = self.lost() {
            return Err(lost);
        }
        let mut fault = lock(&self.fault);
        match fault.take() {
            Some(Fault::Uncaptured(error)) => Err(error),
            lost_meanwhile => {
                *fault = lost_meanwhile;
                Ok(())
            }
        }
    }

    /// The device's loss, once there is one.
    fn lost(&self) -> Option<GpuError> {
        let lose = || self.lose(Loss::Told("the application's device is lost or destroyed".to_owned()));
        self.known_loss().or_else(|| self.refuses_in_silence().then(lose))
    }

    fn known_loss(&self) -> Option<GpuError> {
        match &*lock(&self.fault) {
            Some(Fault::Lost(loss)) => Some(loss.error()),
            _ => None,
        }
    }

    /// Whether an application's device is lost, of which only its owner is told. wgpu says nothing of any call on a lost
    /// device, not even of a write that it must refuse: one at an offset that is no multiple of four. In a browser nothing
    /// is said at once, so that there a loss is met where a result is read.
    fn refuses_in_silence(&self) -> bool {
        let Owner::Application { probe } = &self.owner else { return false };
        if cfg!(target_arch = "wasm32") {
            return false;
        }
        let ((), caught) = caught(&self.device, || self.queue.write_buffer(probe, 1, &[]));
        matches!(caught.error_now(), Ok(None))
    }
}
