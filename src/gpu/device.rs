//! Where plans run: a GPU through wgpu, or the CPU by the kernels' twins.

use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use super::{
    Adapter, AdapterKind, Buffer, Caps, Element, GpuError, RawBuffer,
    buffer::Storage,
    pipeline::{Edit, PipelineCache},
};

/// A place to hold buffers and run plans. Clones share it.
#[derive(Clone, Debug)]
pub struct Device {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: Kind,
    caps: Caps,
    next_buffer: AtomicU64,
}

#[derive(Debug)]
enum Kind {
    Gpu(Gpu),
    Cpu,
}

/// A wgpu device with its queue.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) pipelines: PipelineCache,
    pub(crate) name: String,
    software: bool,
    /// The first error that no scope caught, or the reason of the device's loss.
    fault: Arc<Mutex<Option<Fault>>>,
    /// Bytes written since the queue was last waited for.
    uploading: AtomicU64,
}

#[derive(Debug)]
enum Fault {
    Lost(String),
    Uncaptured(GpuError),
}

/// Staging memory of uploads is freed when their submission is done: this much may be waiting.
const UPLOAD_IN_FLIGHT: u64 = 32 << 20;

impl Device {
    /// The twins on the CPU: no driver is touched.
    pub fn cpu() -> Self {
        let mut caps = Caps::portable();
        // Twins of f16 shaders compute in f64, as all do.
        caps.f16 = true;
        // Host memory has no binding limit; the twins read any number of slices.
        caps.max_binding_bytes = u64::MAX;
        caps.max_buffer_bytes = u64::MAX;
        Self::from_kind(Kind::Cpu, caps)
    }

    /// A device of `adapter`, with all that kernels can use of it.
    ///
    /// # Errors
    /// [`GpuError::RequestDevice`] when the driver refuses.
    pub async fn new(adapter: &Adapter) -> Result<Self, GpuError> {
        Self::masked(adapter, &adapter.caps()).await
    }

    /// A device of `adapter` that has no more than `mask`: wgpu itself then refuses what goes beyond.
    ///
    /// # Errors
    /// [`GpuError::RequestDevice`] when the driver refuses.
    pub async fn masked(adapter: &Adapter, mask: &Caps) -> Result<Self, GpuError> {
        let caps = adapter.caps().and(mask);
        let (device, queue) = adapter
            .wgpu
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("ferrum-wgpu"),
                required_features: caps.features(),
                required_limits: caps.limits(&adapter.wgpu.limits()),
                memory_hints: wgpu::MemoryHints::MemoryUsage,
                ..Default::default()
            })
            .await
            .map_err(|source| GpuError::RequestDevice { adapter: adapter.name().to_owned(), source })?;
        let fault = Arc::new(Mutex::new(None));
        let (lost, uncaptured) = (Arc::clone(&fault), Arc::clone(&fault));
        device.set_device_lost_callback(move |reason, message| {
            if !matches!(reason, wgpu::DeviceLostReason::Destroyed) {
                *lock(&lost) = Some(Fault::Lost(message));
            }
        });
        device.on_uncaptured_error(Arc::new(move |error| {
            lock(&uncaptured).get_or_insert(Fault::Uncaptured(GpuError::from_wgpu(error, "a submission")));
        }));
        let gpu = Gpu {
            device,
            queue,
            pipelines: PipelineCache::default(),
            name: adapter.name().to_owned(),
            software: adapter.kind() == AdapterKind::Software,
            fault,
            uploading: AtomicU64::new(0),
        };
        Ok(Self::from_kind(Kind::Gpu(gpu), caps))
    }

    fn from_kind(kind: Kind, caps: Caps) -> Self {
        Self { inner: Arc::new(Inner { kind, caps, next_buffer: AtomicU64::new(0) }) }
    }

    /// What it can do.
    pub fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    /// The device's name; `cpu` for the twins.
    pub fn name(&self) -> &str {
        self.gpu().map_or("cpu", |gpu| &gpu.name)
    }

    /// True when the processor computes: by a software driver, or by the twins.
    pub fn is_software(&self) -> bool {
        self.gpu().is_none_or(|gpu| gpu.software)
    }

    /// True when plans are run by the twins.
    pub fn is_cpu(&self) -> bool {
        self.gpu().is_none()
    }

    pub(crate) fn gpu(&self) -> Option<&Gpu> {
        match &self.inner.kind {
            Kind::Gpu(gpu) => Some(gpu),
            Kind::Cpu => None,
        }
    }

    /// For tests: from now on `from` is replaced by `to` in the shaders of `kernel` before they are compiled, so that it
    /// computes something else. Those compiled already stay, and the twins have no shaders.
    pub fn edit_shaders(&self, kernel: &str, from: &str, to: &str) {
        if let Some(gpu) = self.gpu() {
            let [kernel, from, to] = [kernel, from, to].map(str::to_owned);
            gpu.pipelines.edits().push(Edit { kernel, from, to });
        }
    }

    /// A buffer of `len` elements, all zero.
    ///
    /// # Errors
    /// [`GpuError::TooLarge`] over the device's binding limit, [`GpuError::OutOfMemory`] when there is none left.
    pub async fn alloc<T: Element>(&self, label: &str, len: u64) -> Result<Buffer<T>, GpuError> {
        // A binding may not be empty, so that a buffer has one element at least.
        let bytes = len.max(1).saturating_mul(size_of::<T>() as u64);
        let limit = self.caps().buffer_limit();
        if bytes > limit {
            return Err(GpuError::TooLarge { label: label.to_owned(), bytes, limit });
        }
        let storage = match &self.inner.kind {
            Kind::Gpu(gpu) => Storage::Gpu(
                gpu.buffer(
                    label,
                    bytes,
                    wgpu::BufferUsages::STORAGE
                        | wgpu::BufferUsages::INDIRECT
                        | wgpu::BufferUsages::COPY_SRC
                        | wgpu::BufferUsages::COPY_DST,
                )
                .await?,
            ),
            Kind::Cpu => {
                let out_of_memory = || GpuError::OutOfMemory { label: label.to_owned(), bytes };
                let words = usize::try_from(bytes / 4).map_err(|_| out_of_memory())?;
                let mut memory = Vec::new();
                memory.try_reserve_exact(words).map_err(|_| out_of_memory())?;
                memory.resize(words, 0);
                Storage::Host(RwLock::new(memory))
            }
        };
        let id = self.inner.next_buffer.fetch_add(1, Ordering::Relaxed);
        Ok(Buffer::new(RawBuffer { id, label: label.to_owned(), bytes, storage }))
    }

    /// A buffer that holds `data`.
    ///
    /// # Errors
    /// Those of [`Device::alloc`] and [`Device::write`].
    pub async fn upload<T: Element>(&self, label: &str, data: &[T]) -> Result<Buffer<T>, GpuError> {
        let buffer = self.alloc(label, data.len() as u64).await?;
        self.write(&buffer, 0, data).await?;
        Ok(buffer)
    }

    /// Overwrites elements from `start` on, before any plan that is run later. Waits when much is under way.
    ///
    /// # Errors
    /// [`GpuError::OutOfRange`] when `data` does not fit there.
    pub async fn write<T: Element>(&self, buffer: &Buffer<T>, start: u64, data: &[T]) -> Result<(), GpuError> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let offset = start.saturating_mul(size_of::<T>() as u64);
        let outside = || GpuError::OutOfRange { what: "a write", buffer: buffer.raw.label.clone() };
        if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > buffer.raw.bytes) {
            return Err(outside());
        }
        match (&buffer.raw.storage, &self.inner.kind) {
            (Storage::Gpu(target), Kind::Gpu(gpu)) => {
                gpu.queue.write_buffer(target, offset, bytes);
                let waiting = gpu.uploading.fetch_add(bytes.len() as u64, Ordering::Relaxed) + bytes.len() as u64;
                if waiting >= UPLOAD_IN_FLIGHT {
                    gpu.queue.submit([]);
                    gpu.wait().await?;
                }
                Ok(())
            }
            (Storage::Host(memory), Kind::Cpu) => {
                let mut memory = memory.write().unwrap_or_else(PoisonError::into_inner);
                let start = usize::try_from(offset / 4).map_err(|_| outside())?;
                let words: &[u32] = bytemuck::cast_slice(data);
                memory.get_mut(start..start + words.len()).ok_or_else(outside)?.copy_from_slice(words);
                Ok(())
            }
            _ => Err(outside()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// A wgpu buffer, with an error where wgpu would make an invalid one.
    pub(crate) async fn buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, GpuError> {
        let memory = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(label),
            size: bytes,
            usage,
            mapped_at_creation: false,
        });
        let (validation, memory) = (validation.pop(), memory.pop());
        if let Some(error) = validation.await {
            return Err(GpuError::from_wgpu(error, label));
        }
        match memory.await {
            Some(_) => Err(GpuError::OutOfMemory { label: label.to_owned(), bytes }),
            None => Ok(buffer),
        }
    }

    /// Waits until all submitted work is done, and reports what went wrong in it.
    pub(crate) async fn wait(&self) -> Result<(), GpuError> {
        let (sender, receiver) = futures_channel::oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            let _ = sender.send(());
        });
        self.finish(receiver).await?;
        self.uploading.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Drives the device until `receiver` has its answer.
    pub(crate) async fn finish<T>(&self, receiver: futures_channel::oneshot::Receiver<T>) -> Result<T, GpuError> {
        // Natively callbacks run inside poll; in a browser the event loop runs them.
        if let Err(error) = self.device.poll(wgpu::PollType::wait_indefinitely()) {
            self.check()?;
            return Err(GpuError::Lost(error.to_string()));
        }
        self.check()?;
        receiver.await.map_err(|_| GpuError::Lost("the driver dropped a request".to_owned()))
    }

    /// The first error that no scope caught, once; a lost device stays lost.
    pub(crate) fn check(&self) -> Result<(), GpuError> {
        let mut fault = lock(&self.fault);
        match &*fault {
            None => Ok(()),
            Some(Fault::Lost(message)) => Err(GpuError::Lost(message.clone())),
            Some(Fault::Uncaptured(_)) => match fault.take() {
                Some(Fault::Uncaptured(error)) => Err(error),
                _ => Ok(()),
            },
        }
    }
}
