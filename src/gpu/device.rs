//! Where plans run: a GPU through wgpu, or the CPU by the kernels' CPU kernels.

use std::{
    future::poll_fn,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use super::{
    Adapter, Buffer, Caps, Element, GpuError, Matrices, RawBuffer, Requirements,
    adapter::{caps_of, kernels_need},
    buffer::{Identity, Storage},
    driver::{Allowance, ENGINE, Gpu},
    pipeline::Edit,
};

/// Bytes that [`Device::write`] gives to the driver at a time.
const WRITE_SLICE: usize = 16 << 20;

/// The number of an outline's first buffer.
const OUTLINED: u64 = 1 << 63;

/// A place to hold buffers and run plans. Clones share it.
#[derive(Clone, Debug)]
pub struct Device {
    inner: Arc<Inner>,
}

/// What has been created on a device since it was made, whether it still is: what tests and benches read to see that running
/// creates nothing. The CPU kernels create nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Created {
    /// Buffers.
    pub buffers: u64,
    /// Bind groups.
    pub bind_groups: u64,
    /// Compiled pipelines.
    pub pipelines: u64,
}

#[derive(Debug)]
struct Inner {
    kind: Kind,
    caps: Caps,
    identity: Identity,
    next_buffer: AtomicU64,
    /// See [`Device::pend`].
    pending: AtomicU32,
    /// Those of `caps.matrices` that have been found to compute right.
    trusted: OnceLock<Matrices>,
}

#[derive(Debug)]
enum Kind {
    Gpu(Box<Gpu>),
    Cpu(Allowance),
    /// See [`Device::outline`].
    Outline(Device),
}

impl Device {
    /// The CPU kernels on the CPU: no driver is touched.
    pub fn cpu() -> Self {
        let mut caps = Caps::portable();
        // CPU kernels of f16 shaders compute in f64, as all do.
        caps.f16 = true;
        // Host memory has no binding limit; the CPU kernels read any number of slices.
        caps.max_binding_bytes = u64::MAX;
        caps.max_buffer_bytes = u64::MAX;
        Self::from_kind(Kind::Cpu(Allowance::new()), caps)
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
        let Requirements { mut features, limits } = Requirements::with(&caps, &adapter.wgpu);
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        if caps.matrices.any() {
            features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: asks not to rely on experiments. Nothing does before `conformance::check_matrices`, and matrices are only
            // loaded from and stored to where shaders have clamped their places.
            #[allow(unsafe_code)]
            unsafe {
                experimental_features = wgpu::ExperimentalFeatures::enabled();
            }
        }
        let (device, queue) = adapter
            .wgpu
            .request_device(&wgpu::DeviceDescriptor {
                label: Some("ferrum-wgpu"),
                required_features: features,
                required_limits: limits,
                memory_hints: wgpu::MemoryHints::MemoryUsage,
                experimental_features,
                ..Default::default()
            })
            .await
            .map_err(|source| GpuError::RequestDevice { adapter: adapter.name().to_owned(), source })?;
        Ok(Self::from_kind(Kind::Gpu(Box::new(Gpu::ours(&adapter.wgpu.get_info(), device, queue))), caps))
    }

    /// A device that the application has made of `adapter` and goes on using, with all that kernels can use of it:
    /// [`Requirements`] says what to ask for when it is made.
    ///
    /// The application's handlers of errors and of the device's loss stay as they are, and our errors do not reach them.
    /// Nothing here blocks: what has to wait polls the device and wakes itself, so that it goes on whether the application
    /// polls or not. The loss of the device is [`GpuError::Lost`] from the next call on.
    ///
    /// # Errors
    /// [`GpuError::Unsuited`] when the device was made with less than kernels need and its adapter has; errors of the
    /// device.
    pub fn from_wgpu(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue) -> Result<Self, GpuError> {
        let caps = caps_of(adapter, device.features(), &device.limits());
        kernels_need(adapter, &caps)?;
        Ok(Self::from_kind(Kind::Gpu(Box::new(Gpu::of_application(&adapter.get_info(), device, queue)?)), caps))
    }

    /// A device on which buffers have sizes and no memory, and writes are forgotten: what is recorded there is what would be
    /// on this one, so that it can be compiled before anything is allocated.
    pub(crate) fn outline(&self) -> Self {
        Self::from_kind(Kind::Outline(self.clone()), self.caps().clone())
    }

    /// Whether it is an [`outline`](Device::outline).
    pub(crate) fn is_outline(&self) -> bool {
        matches!(self.inner.kind, Kind::Outline(_))
    }

    fn from_kind(kind: Kind, caps: Caps) -> Self {
        // Plans may have buffers of an outline beside those of its device.
        let first = if matches!(kind, Kind::Outline(_)) { OUTLINED } else { 0 };
        let (identity, next_buffer, pending) = (Identity::default(), AtomicU64::new(first), AtomicU32::new(0));
        Self { inner: Arc::new(Inner { kind, caps, identity, next_buffer, pending, trusted: OnceLock::new() }) }
    }

    /// What it can do.
    pub fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    /// The cooperative matrices that have been found to compute right on it; none before anybody has looked.
    pub fn trusted_matrices(&self) -> Matrices {
        self.trusted().get().copied().unwrap_or_default()
    }

    pub(crate) fn trusted(&self) -> &OnceLock<Matrices> {
        match &self.inner.kind {
            Kind::Gpu(_) | Kind::Cpu(_) => &self.inner.trusted,
            Kind::Outline(of) => of.trusted(),
        }
    }

    /// The device's name; `cpu` for the CPU kernels.
    pub fn name(&self) -> &str {
        match &self.inner.kind {
            Kind::Gpu(gpu) => &gpu.name,
            Kind::Cpu(_) => "cpu",
            Kind::Outline(of) => of.name(),
        }
    }

    /// What identifies the adapter, its driver and this engine's version: what was measured or compiled where it is another
    /// is of no use here.
    pub fn fingerprint(&self) -> String {
        match &self.inner.kind {
            Kind::Gpu(gpu) => gpu.fingerprint.clone(),
            Kind::Cpu(_) => format!("{ENGINE}; cpu"),
            Kind::Outline(of) => of.fingerprint(),
        }
    }

    /// True when the processor computes: by a software driver, or by the CPU kernels.
    pub fn is_software(&self) -> bool {
        match &self.inner.kind {
            Kind::Gpu(gpu) => gpu.software,
            Kind::Cpu(_) => true,
            Kind::Outline(of) => of.is_software(),
        }
    }

    /// True when plans are run by the CPU kernels.
    pub fn is_cpu(&self) -> bool {
        self.gpu().is_none()
    }

    /// How long its queue may do nothing while it is waited for, before it is taken for one that hangs
    /// ([`GpuError::Hung`]): half a minute on GPUs and ten on software drivers, if nobody says otherwise. `None`: without
    /// end. In a browser, where there is no clock, and for the CPU kernels, it has no effect.
    pub fn set_deadline(&self, deadline: Option<Duration>) {
        if let Some(gpu) = self.gpu() {
            gpu.patience.set(deadline);
        }
    }

    /// What [`Device::set_deadline`] sets; none for the CPU kernels.
    pub fn deadline(&self) -> Option<Duration> {
        self.gpu()?.patience.deadline()
    }

    /// Times that the host waited for the device until now; for the CPU kernels never.
    pub fn waits(&self) -> u64 {
        self.gpu().map_or(0, Gpu::waits)
    }

    /// The most bytes that were on their way to the device at once, until now: for the CPU kernels none.
    pub fn most_uploading(&self) -> u64 {
        self.gpu().map_or(0, Gpu::most_uploading)
    }

    pub(crate) fn gpu(&self) -> Option<&Gpu> {
        match &self.inner.kind {
            Kind::Gpu(gpu) => Some(gpu),
            Kind::Cpu(_) | Kind::Outline(_) => None,
        }
    }

    /// What has been created on it until now.
    pub fn created(&self) -> Created {
        self.gpu().map(|gpu| gpu.made.all()).unwrap_or_default()
    }

    /// For tests: from now on `from` is replaced by `to` in the shaders of `kernel` before they are compiled, so that it
    /// computes something else. Those compiled already stay, and the CPU kernels have no shaders.
    pub fn edit_shaders(&self, kernel: &str, from: &str, to: &str) {
        if let Some(gpu) = self.gpu() {
            let [kernel, from, to] = [kernel, from, to].map(str::to_owned);
            gpu.pipelines.edits().push(Edit { kernel, from, to });
        }
    }

    /// Compiles kernels from now on without the checks of indices and loops that wgpu adds to shaders: for measuring what these
    /// cost, and for showing that kernels do not need them. Kernels that are compiled already stay as they are.
    ///
    /// # Safety
    /// Every kernel that is compiled later must keep within its buffers, and its loops must end, whatever its data are. Those of
    /// this crate do as long as their parameters say how long the buffers are.
    #[allow(unsafe_code)]
    pub unsafe fn leave_out_shader_checks(&self) {
        if let Some(gpu) = self.gpu() {
            gpu.pipelines.unchecked.store(true, Ordering::Relaxed);
        }
    }

    /// For tests: from now on this many allocations succeed, and all others fail as if memory had run out, until
    /// `u64::MAX` is set.
    pub fn fail_allocations_after(&self, allocations: u64) {
        match &self.inner.kind {
            Kind::Gpu(gpu) => gpu.allowance.set(allocations),
            Kind::Cpu(allowance) => allowance.set(allocations),
            Kind::Outline(_) => {}
        }
    }

    /// For tests: the device is lost, as by a driver's reset. One of an application is only refused here from now on. The
    /// CPU kernels have nothing to lose.
    pub fn lose(&self) {
        if let Some(gpu) = self.gpu() {
            gpu.destroy();
        }
    }

    /// For tests: from now on its queue gives no answer any more, as one that hangs. The CPU kernels have none.
    pub fn hang(&self) {
        if let Some(gpu) = self.gpu() {
            gpu.patience.hang();
        }
    }

    /// For tests: from now on what is awaited of it is pending the first so many times that it is polled, as with a driver
    /// that takes its time. It wakes itself.
    pub fn pend(&self, polls: u32) {
        self.inner.pending.store(polls, Ordering::Relaxed);
    }

    /// What [`Device::pend`] asks for.
    pub(crate) async fn pending(&self) {
        let mut left = self.inner.pending.load(Ordering::Relaxed);
        poll_fn(|context| match left.checked_sub(1) {
            None => Poll::Ready(()),
            Some(fewer) => {
                left = fewer;
                context.waker().wake_by_ref();
                Poll::Pending
            }
        })
        .await;
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// A buffer of `len` elements, all zero.
    ///
    /// # Errors
    /// [`GpuError::TooLarge`] over the device's binding limit, [`GpuError::OutOfMemory`] when there is none left,
    /// [`GpuError::Lost`].
    pub async fn alloc<T: Element>(&self, label: &str, len: u64) -> Result<Buffer<T>, GpuError> {
        self.allocate(label, len, false).await
    }

    /// As [`Device::alloc`], for what is written once and then only read. No plan may have it before it is
    /// [sealed](Device::seal); until then writes go straight to its memory where that is the processor's too, every byte once
    /// and none waited for.
    ///
    /// # Errors
    /// Those of [`Device::alloc`].
    pub(crate) async fn alloc_mapped<T: Element>(&self, label: &str, len: u64) -> Result<Buffer<T>, GpuError> {
        self.allocate(label, len, self.gpu().is_some_and(|gpu| gpu.shares_memory)).await
    }

    /// Ends what [`Device::alloc_mapped`] has begun.
    pub(crate) fn seal<T: Element>(&self, buffer: &Buffer<T>) -> Result<(), GpuError> {
        match (buffer.raw.mapped.swap(false, Ordering::Relaxed), self.gpu()) {
            (true, Some(gpu)) => {
                let target = buffer.raw.on_gpu()?;
                gpu.now(&buffer.raw.label, || target.unmap())
            }
            _ => Ok(()),
        }
    }

    async fn allocate<T: Element>(&self, label: &str, len: u64, mapped: bool) -> Result<Buffer<T>, GpuError> {
        // A binding may not be empty, so that a buffer has one element at least.
        let bytes = len.max(1).saturating_mul(size_of::<T>() as u64);
        self.pending().await;
        let limit = self.caps().buffer_limit();
        if bytes > limit {
            return Err(GpuError::TooLarge { label: label.to_owned(), bytes, limit });
        }
        let storage = match &self.inner.kind {
            Kind::Gpu(gpu) => {
                use wgpu::BufferUsages as Usage;
                let mut usage = Usage::STORAGE | Usage::INDIRECT | Usage::COPY_SRC | Usage::COPY_DST;
                usage.set(Usage::MAP_WRITE, mapped);
                Storage::Gpu(gpu.buffer(label, bytes, usage).await?)
            }
            Kind::Cpu(allowance) => {
                let out_of_memory = || GpuError::OutOfMemory { label: label.to_owned(), bytes };
                if !allowance.take() {
                    return Err(out_of_memory());
                }
                let words = usize::try_from(bytes / 4).map_err(|_| out_of_memory())?;
                let mut memory = Vec::new();
                memory.try_reserve_exact(words).map_err(|_| out_of_memory())?;
                memory.resize(words, 0);
                Storage::Host(RwLock::new(memory))
            }
            Kind::Outline(_) => Storage::Outline,
        };
        let id = self.inner.next_buffer.fetch_add(1, Ordering::Relaxed);
        Ok(Buffer::new(RawBuffer {
            id,
            identity: self.inner.identity.clone(),
            label: label.to_owned(),
            bytes,
            storage,
            mapped: AtomicBool::new(mapped),
        }))
    }

    /// A buffer that holds `data`.
    ///
    /// # Errors
    /// Those of [`Device::alloc`] and [`Device::write`].
    pub async fn upload<T: Element>(&self, label: &str, data: &[T]) -> Result<Buffer<T>, GpuError> {
        let buffer = self.alloc_mapped(label, data.len() as u64).await?;
        self.write(&buffer, 0, data).await?;
        self.seal(&buffer)?;
        Ok(buffer)
    }

    /// Overwrites elements from `start` on, before any plan that is run later. Waits when much is under way: what is takes
    /// no more than 64 MiB.
    ///
    /// # Errors
    /// [`GpuError::OutOfRange`] when `data` does not fit there, [`GpuError::Lost`].
    pub async fn write<T: Element>(&self, buffer: &Buffer<T>, start: u64, data: &[T]) -> Result<(), GpuError> {
        self.check_write(buffer, start, data)?;
        self.pending().await;
        let slice = (WRITE_SLICE / size_of::<T>()).max(1);
        for (i, part) in data.chunks(slice).enumerate() {
            let much_under_way = self.copy_in(buffer, start + (i * slice) as u64, part)?;
            self.pending().await;
            if let (true, Some(gpu)) = (much_under_way, self.gpu()) {
                gpu.flush().await?;
            }
        }
        Ok(())
    }

    /// [`Device::write`] without ever waiting, for the small inputs of a step: memory for what is under way is not bounded.
    ///
    /// # Errors
    /// Those of [`Device::write`].
    pub fn write_now<T: Element>(&self, buffer: &Buffer<T>, start: u64, data: &[T]) -> Result<(), GpuError> {
        self.copy_in(buffer, start, data).map(|_| ())
    }

    /// Whether `data` fits in a buffer of this device; gives the first byte that it goes to.
    fn check_write<T: Element>(&self, buffer: &Buffer<T>, start: u64, data: &[T]) -> Result<u64, GpuError> {
        let offset = start.saturating_mul(size_of::<T>() as u64);
        let end = offset.checked_add(size_of_val(data) as u64);
        if end.is_none_or(|end| end > buffer.raw.bytes) || buffer.raw.identity != self.inner.identity {
            return Err(GpuError::OutOfRange { what: "a write", buffer: buffer.raw.label.clone() });
        }
        Ok(offset)
    }

    /// Overwrites elements, and says whether so much is under way that it should be waited for.
    fn copy_in<T: Element>(&self, buffer: &Buffer<T>, start: u64, data: &[T]) -> Result<bool, GpuError> {
        let offset = self.check_write(buffer, start, data)?;
        let outside = || GpuError::OutOfRange { what: "a write", buffer: buffer.raw.label.clone() };
        match (&buffer.raw.storage, &self.inner.kind) {
            (Storage::Gpu(target), Kind::Gpu(gpu)) if buffer.raw.mapped.load(Ordering::Relaxed) => {
                gpu.write_mapped(target, offset, bytemuck::cast_slice(data)).map(|()| false)
            }
            (Storage::Gpu(target), Kind::Gpu(gpu)) => gpu.write(target, offset, bytemuck::cast_slice(data)),
            (Storage::Host(memory), Kind::Cpu(_)) => {
                let mut memory = memory.write().unwrap_or_else(PoisonError::into_inner);
                let start = usize::try_from(offset / 4).map_err(|_| outside())?;
                let words: &[u32] = bytemuck::cast_slice(data);
                memory.get_mut(start..start + words.len()).ok_or_else(outside)?.copy_from_slice(words);
                Ok(false)
            }
            (Storage::Outline, Kind::Outline(_)) => Ok(false),
            _ => Err(outside()),
        }
    }
}
