//! The device that holds buffers and runs plans: a GPU through wgpu, or the CPU kernels.

use std::{
    future::poll_fn,
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

#[cfg(feature = "test-util")]
use super::counters::Created;
use super::{
    Adapter, Buffer, Caps, Element, Fragment, GpuError, Matrices, RawBuffer, Requirements,
    adapter::{caps_of, kernels_need, shares_memory},
    backend::Gpu,
    buffer::{Identity, Storage},
    context::Context,
    hooks::Hooks,
    pipeline::Pipelines,
    poller::WaitMode,
};

/// The bytes that [`Device::write`] passes to the driver at a time.
const WRITE_CHUNK: usize = 16 << 20;

/// The id of the first buffer of a dry-run device. A plan may have buffers of a device and of its dry run.
const FIRST_DRY_RUN_BUFFER: u64 = 1 << 63;

/// This library and its version.
const LIBRARY: &str = concat!("ferrum-wgpu ", env!("CARGO_PKG_VERSION"));

/// A device that holds buffers and runs plans. Clones share it.
#[derive(Clone, Debug)]
pub struct Device {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    backend: Backend,
    about: About,
    caps: Caps,
    identity: Identity,
    next_buffer: AtomicU64,
    /// The cooperative matrices that passed the self-test. A dry run shares them with its device.
    trusted_matrices: Arc<OnceLock<Matrices>>,
    /// Whether `unpack2x16float` keeps subnormals, once that has been tested.
    unpack_is_exact: OnceLock<bool>,
    hooks: Arc<Hooks>,
}

#[derive(Debug)]
enum Backend {
    Gpu(Box<Gpu>),
    /// The CPU kernels.
    Cpu,
    /// No memory: see [`Device::dry_run`].
    DryRun,
}

/// The properties of a device that a dry run has too.
#[derive(Clone, Debug)]
struct About {
    name: String,
    fingerprint: String,
    software: bool,
    shares_memory: bool,
}

impl About {
    fn of_adapter(info: &wgpu::AdapterInfo) -> Self {
        let wgpu::AdapterInfo { backend, name, driver, driver_info, .. } = info;
        Self {
            name: name.clone(),
            fingerprint: format!("{LIBRARY}; {backend}; {name}; {driver} {driver_info}"),
            software: info.device_type == wgpu::DeviceType::Cpu,
            shares_memory: shares_memory(info),
        }
    }
}

impl Device {
    /// Creates a device that runs the CPU kernels, without a driver.
    pub fn cpu() -> Self {
        let mut caps = Caps::portable();
        // The CPU kernel of an f16 shader computes in f64, as all do.
        caps.f16 = true;
        // Host memory has no binding limits.
        caps.max_binding_bytes = u64::MAX;
        caps.max_buffer_bytes = u64::MAX;
        let (name, fingerprint) = ("cpu".to_owned(), format!("{LIBRARY}; cpu"));
        let about = About { name, fingerprint, software: true, shares_memory: true };
        Self::from_backend(Backend::Cpu, about, caps, Arc::default())
    }

    /// Creates a device of `adapter` with all features and limits that kernels can use.
    ///
    /// # Errors
    /// [`GpuError::RequestDevice`] when the driver refuses.
    pub async fn new(adapter: &Adapter) -> Result<Self, GpuError> {
        Self::masked(adapter, &adapter.caps()).await
    }

    /// Creates a device of `adapter` with no more than `mask`. wgpu rejects what exceeds it.
    ///
    /// # Errors
    /// [`GpuError::RequestDevice`] when the driver refuses.
    pub async fn masked(adapter: &Adapter, mask: &Caps) -> Result<Self, GpuError> {
        let caps = adapter.caps().and(mask);
        let Requirements { mut features, limits } = Requirements::with(&caps, &adapter.wgpu);
        let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
        if caps.matrices.any() {
            features |= wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
            // SAFETY: the caller must be aware that the feature may be faulty. Only matrices that pass
            // `kernels::check_device` are used, and shaders clamp the places that they load from and store to.
            #[allow(unsafe_code)]
            unsafe {
                experimental_features = wgpu::ExperimentalFeatures::enabled();
            }
        }
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("ferrum-wgpu"),
            required_features: features,
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            experimental_features,
            ..Default::default()
        };
        let request = || adapter.wgpu.request_device(&descriptor);
        #[cfg(target_arch = "wasm32")]
        let requested = if caps.subgroups { super::browser::with_subgroups(&adapter.wgpu, request) } else { request() };
        #[cfg(not(target_arch = "wasm32"))]
        let requested = request();
        let (device, queue) =
            requested.await.map_err(|source| GpuError::RequestDevice { adapter: adapter.name().to_owned(), source })?;
        let (info, hooks) = (adapter.info.clone(), Arc::<Hooks>::default());
        let software = info.device_type == wgpu::DeviceType::Cpu;
        let context = Context::own(device, queue, software, Arc::clone(&hooks));
        Ok(Self::from_context(context, &info, caps, hooks))
    }

    /// Takes a device that the application has created of `adapter` and still uses. [`Requirements`] has the features and
    /// limits to create it with.
    ///
    /// The application's handlers for errors and for the loss of the device stay installed, and get none of this library's
    /// errors. Futures that wait complete even if the application never polls the device: a thread of the library polls it while
    /// there are some, and may run callbacks of the application. After the loss of the device every call returns [`GpuError::Lost`].
    ///
    /// # Errors
    /// [`GpuError::Unsuited`] when the device has less than kernels need and its adapter offers; errors of the device.
    pub fn from_wgpu(adapter: &wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue) -> Result<Self, GpuError> {
        let caps = caps_of(adapter, device.features(), &device.limits());
        kernels_need(adapter, &caps)?;
        let (info, hooks) = (adapter.get_info(), Arc::<Hooks>::default());
        let software = info.device_type == wgpu::DeviceType::Cpu;
        let context = Context::of_application(device, queue, software, Arc::clone(&hooks))?;
        Ok(Self::from_context(context, &info, caps, hooks))
    }

    /// Creates a device whose buffers have sizes and no memory. Plans recorded on it are those of this device, so that
    /// pipelines can be compiled before anything is allocated.
    pub(crate) fn dry_run(&self) -> Self {
        let Inner { about, caps, trusted_matrices, .. } = &*self.inner;
        Self {
            inner: Arc::new(Inner {
                backend: Backend::DryRun,
                about: about.clone(),
                caps: caps.clone(),
                identity: Identity::default(),
                next_buffer: AtomicU64::new(FIRST_DRY_RUN_BUFFER),
                trusted_matrices: Arc::clone(trusted_matrices),
                unpack_is_exact: OnceLock::new(),
                hooks: Arc::default(),
            }),
        }
    }

    /// Creates a dry run of a device that need not be there: software or not, with capabilities as given.
    pub(crate) fn dry_run_with(caps: Caps, software: bool) -> Self {
        let (name, fingerprint) = ("dry run".to_owned(), format!("{LIBRARY}; dry run"));
        let about = About { name, fingerprint, software, shares_memory: false };
        Self::from_backend(Backend::DryRun, about, caps, Arc::default())
    }

    /// Returns whether it is a [dry run](Device::dry_run).
    pub(crate) fn is_dry_run(&self) -> bool {
        matches!(self.inner.backend, Backend::DryRun)
    }

    fn from_backend(backend: Backend, about: About, caps: Caps, hooks: Arc<Hooks>) -> Self {
        let (identity, next_buffer) = (Identity::default(), AtomicU64::new(0));
        Self {
            inner: Arc::new(Inner {
                backend,
                about,
                caps,
                identity,
                next_buffer,
                trusted_matrices: Arc::default(),
                unpack_is_exact: OnceLock::new(),
                hooks,
            }),
        }
    }

    fn from_context(context: Context, info: &wgpu::AdapterInfo, caps: Caps, hooks: Arc<Hooks>) -> Self {
        let can_map = context.device.features().contains(wgpu::Features::MAPPABLE_PRIMARY_BUFFERS);
        let gpu = Gpu { context, pipelines: Pipelines::default(), maps_buffers: can_map && shares_memory(info) };
        Self::from_backend(Backend::Gpu(Box::new(gpu)), About::of_adapter(info), caps, hooks)
    }

    /// Returns its capabilities and limits.
    pub fn caps(&self) -> &Caps {
        &self.inner.caps
    }

    /// Returns the cooperative matrices that passed the self-test on this device: none before
    /// `kernels::check_device` has run.
    pub fn trusted_matrices(&self) -> Matrices {
        self.matrices_cell().get().copied().unwrap_or_default()
    }

    /// Returns where the result of the self-test is stored.
    pub(crate) fn matrices_cell(&self) -> &OnceLock<Matrices> {
        &self.inner.trusted_matrices
    }

    /// Returns where the result of the self-test of `unpack2x16float` is stored.
    pub(crate) fn unpack_cell(&self) -> &OnceLock<bool> {
        &self.inner.unpack_is_exact
    }

    /// Replaces a fragment by another one in the shaders that are compiled from now on.
    pub(crate) fn replace_fragment(&self, old: Fragment, new: Fragment) {
        if let Some(gpu) = self.gpu() {
            gpu.pipelines.replace(old, new);
        }
    }

    /// Returns the device's name; `cpu` for the CPU kernels.
    pub fn name(&self) -> &str {
        &self.inner.about.name
    }

    /// Returns an identifier of the adapter, its driver and this library's version. Measurements and compiled pipelines are
    /// valid for one fingerprint.
    pub fn fingerprint(&self) -> String {
        self.inner.about.fingerprint.clone()
    }

    /// Returns whether the processor computes: a software driver or the CPU kernels.
    pub fn is_software(&self) -> bool {
        self.inner.about.software
    }

    /// Returns whether its memory is the CPU's too.
    pub(crate) fn shares_memory(&self) -> bool {
        self.inner.about.shares_memory
    }

    /// Returns whether the CPU kernels run its plans.
    pub fn is_cpu(&self) -> bool {
        self.gpu().is_none()
    }

    /// Sets how long the queue may make no progress while a task waits for it; then the device counts as lost
    /// ([`GpuError::Hung`]). `None` disables the deadline. The default is 30 seconds on GPUs and 10 minutes on software
    /// drivers. Without effect on the CPU kernels.
    pub fn set_deadline(&self, deadline: Option<Duration>) {
        if let Some(context) = self.context() {
            context.watchdog.set_deadline(deadline);
        }
    }

    /// Sets how futures wait for the device, on all clones: pending, as they do by default, or blocking their thread. Without
    /// effect on the CPU kernels, which compute when they are polled, and in a browser, where nothing can block.
    pub fn set_wait_mode(&self, mode: WaitMode) {
        if let Some(context) = self.context() {
            context.poller.set_mode(mode);
        }
    }

    /// Returns the deadline; `None` for the CPU kernels.
    pub fn deadline(&self) -> Option<Duration> {
        self.context()?.watchdog.deadline()
    }

    pub(super) fn gpu(&self) -> Option<&Gpu> {
        match &self.inner.backend {
            Backend::Gpu(gpu) => Some(gpu),
            Backend::Cpu | Backend::DryRun => None,
        }
    }

    pub(super) fn context(&self) -> Option<&Context> {
        self.gpu().map(|gpu| &gpu.context)
    }

    /// Is pending as often as tests have asked for.
    pub(super) async fn pending(&self) {
        let mut left = self.inner.hooks.pending_polls();
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

    pub(super) fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    /// Allocates a buffer of `len` zeros.
    ///
    /// # Errors
    /// [`GpuError::TooLarge`] over the device's binding limit, [`GpuError::OutOfMemory`], [`GpuError::Lost`].
    pub async fn alloc<T: Element>(&self, label: &str, len: u64) -> Result<Buffer<T>, GpuError> {
        self.allocate(label, len, false).await
    }

    /// Allocates a buffer that is written once and then only read. On devices that share the processor's memory it is mapped
    /// and writes go straight to it: each byte must be written once. No plan may use it before [`Device::unmap`].
    ///
    /// # Errors
    /// Those of [`Device::alloc`].
    pub(crate) async fn alloc_mapped<T: Element>(&self, label: &str, len: u64) -> Result<Buffer<T>, GpuError> {
        self.allocate(label, len, self.gpu().is_some_and(|gpu| gpu.maps_buffers)).await
    }

    /// Unmaps a buffer of [`Device::alloc_mapped`].
    pub(crate) fn unmap<T: Element>(&self, buffer: &Buffer<T>) -> Result<(), GpuError> {
        match (buffer.raw.mapped.swap(false, Ordering::Relaxed), self.context()) {
            (true, Some(context)) => {
                let target = buffer.raw.on_gpu()?;
                context.call(&buffer.raw.label, || target.unmap())
            }
            _ => Ok(()),
        }
    }

    async fn allocate<T: Element>(&self, label: &str, len: u64, mapped: bool) -> Result<Buffer<T>, GpuError> {
        // A binding may not be empty.
        let bytes = len.max(1).saturating_mul(size_of::<T>() as u64);
        self.pending().await;
        let limit = self.caps().buffer_limit();
        if bytes > limit {
            return Err(GpuError::TooLarge { label: label.to_owned(), bytes, limit });
        }
        let storage = match &self.inner.backend {
            Backend::Gpu(gpu) => {
                use wgpu::BufferUsages as Usage;
                let mut usage = Usage::STORAGE | Usage::INDIRECT | Usage::COPY_SRC | Usage::COPY_DST;
                usage.set(Usage::MAP_WRITE, mapped);
                Storage::Gpu(gpu.context.buffer(label, bytes, usage).await?)
            }
            Backend::Cpu => {
                let out_of_memory = || GpuError::OutOfMemory { label: label.to_owned(), bytes };
                if !self.inner.hooks.takes_allocation() {
                    return Err(out_of_memory());
                }
                let words = usize::try_from(bytes / 4).map_err(|_| out_of_memory())?;
                let mut memory = Vec::new();
                memory.try_reserve_exact(words).map_err(|_| out_of_memory())?;
                memory.resize(words, 0);
                Storage::Host(RwLock::new(memory))
            }
            Backend::DryRun => Storage::DryRun,
        };
        let id = self.inner.next_buffer.fetch_add(1, Ordering::Relaxed);
        Ok(self.buffer(id, label, bytes, storage, mapped))
    }

    /// Allocates a buffer that no dispatch binds, so that binding limits do not apply.
    pub(super) async fn alloc_unbound<T: Element>(
        &self,
        context: &Context,
        label: &str,
        len: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<Buffer<T>, GpuError> {
        let bytes = len.max(1).saturating_mul(size_of::<T>() as u64);
        let storage = Storage::Gpu(context.buffer(label, bytes, usage).await?);
        Ok(self.buffer(u64::MAX, label, bytes, storage, false))
    }

    fn buffer<T: Element>(&self, id: u64, label: &str, bytes: u64, storage: Storage, mapped: bool) -> Buffer<T> {
        let (identity, mapped) = (self.inner.identity.clone(), AtomicBool::new(mapped));
        Buffer::new(RawBuffer { id, identity, label: label.to_owned(), bytes, storage, mapped })
    }

    /// Allocates a buffer that holds `data`.
    ///
    /// # Errors
    /// Those of [`Device::alloc`] and [`Device::write`].
    pub async fn upload<T: Element>(&self, label: &str, data: &[T]) -> Result<Buffer<T>, GpuError> {
        let buffer = self.alloc_mapped(label, data.len() as u64).await?;
        self.write(&buffer, 0, data).await?;
        self.unmap(&buffer)?;
        Ok(buffer)
    }

    /// Overwrites elements from `start` on, before any plan that is run later. Waits while much is in flight: uploads in
    /// flight never exceed 64 MiB.
    ///
    /// # Errors
    /// [`GpuError::OutOfRange`] when `data` does not fit there, [`GpuError::Lost`].
    pub async fn write<T: Element>(&self, buffer: &Buffer<T>, start: u64, data: &[T]) -> Result<(), GpuError> {
        self.byte_offset(buffer, start, data)?;
        self.pending().await;
        let chunk = (WRITE_CHUNK / size_of::<T>()).max(1);
        for (i, part) in data.chunks(chunk).enumerate() {
            let should_wait = self.copy_in(buffer, start + (i * chunk) as u64, part)?;
            self.pending().await;
            if let (true, Some(context)) = (should_wait, self.context()) {
                context.flush().await?;
            }
        }
        Ok(())
    }

    /// Does the same as [`Device::write`] and never waits: for a step's small inputs. Uploads in flight are not limited.
    ///
    /// # Errors
    /// Those of [`Device::write`].
    pub fn write_now<T: Element>(&self, buffer: &Buffer<T>, start: u64, data: &[T]) -> Result<(), GpuError> {
        self.copy_in(buffer, start, data).map(|_| ())
    }

    /// Returns the offset of element `start` in bytes, if `data` fits there and the buffer is of this device.
    fn byte_offset<T: Element>(&self, buffer: &Buffer<T>, start: u64, data: &[T]) -> Result<u64, GpuError> {
        let offset = start.saturating_mul(size_of::<T>() as u64);
        let end = offset.checked_add(size_of_val(data) as u64);
        if end.is_none_or(|end| end > buffer.raw.bytes) || buffer.raw.identity != self.inner.identity {
            return Err(GpuError::OutOfRange { what: "a write", buffer: buffer.raw.label.clone() });
        }
        Ok(offset)
    }

    /// Overwrites elements, and returns whether so much is in flight that the next write should wait.
    fn copy_in<T: Element>(&self, buffer: &Buffer<T>, start: u64, data: &[T]) -> Result<bool, GpuError> {
        let offset = self.byte_offset(buffer, start, data)?;
        let out_of_range = || GpuError::OutOfRange { what: "a write", buffer: buffer.raw.label.clone() };
        match (&buffer.raw.storage, self.context()) {
            (Storage::Gpu(target), Some(context)) if buffer.raw.mapped.load(Ordering::Relaxed) => {
                context.write_mapped(target, offset, bytemuck::cast_slice(data)).map(|()| false)
            }
            (Storage::Gpu(target), Some(context)) => context.write(target, offset, bytemuck::cast_slice(data)),
            (Storage::Host(memory), None) => {
                let mut memory = memory.write().unwrap_or_else(PoisonError::into_inner);
                let start = usize::try_from(offset / 4).map_err(|_| out_of_range())?;
                let words: &[u32] = bytemuck::cast_slice(data);
                memory.get_mut(start..start + words.len()).ok_or_else(out_of_range)?.copy_from_slice(words);
                Ok(false)
            }
            (Storage::DryRun, None) => Ok(false),
            _ => Err(out_of_range()),
        }
    }
}

/// Measurements that the command line and tests make.
#[cfg(any(feature = "cli", feature = "test-util"))]
impl Device {
    /// Returns how often the host has waited for the device; for the CPU kernels 0.
    #[doc(hidden)]
    pub fn waits(&self) -> u64 {
        self.context().map_or(0, |context| context.counters.waits.get())
    }

    /// Compiles kernels from now on without wgpu's bounds checks and loop limits. Pipelines that are compiled already stay.
    ///
    /// # Safety
    /// Every kernel that is compiled later must keep within its buffers, and its loops must end, whatever its data are.
    /// Kernels of this library do when their parameters match the buffers.
    #[doc(hidden)]
    #[allow(unsafe_code)]
    pub unsafe fn leave_out_shader_checks(&self) {
        if let Some(gpu) = self.gpu() {
            gpu.pipelines.leave_out_checks();
        }
    }
}

/// Hooks for tests: counters and fault injection.
#[cfg(feature = "test-util")]
impl Device {
    /// Returns counts of the objects created on it.
    pub fn created(&self) -> Created {
        self.context().map(|context| context.counters.created()).unwrap_or_default()
    }

    /// Returns the most bytes of uploads that were in flight at once; for the CPU kernels 0.
    pub fn most_uploading(&self) -> u64 {
        self.context().map_or(0, |context| context.counters.most_uploading.get())
    }

    /// Replaces `from` with `to` in the shaders of `kernel` that are compiled from now on. Pipelines that are compiled
    /// already stay. Without effect on the CPU kernels.
    pub fn edit_shaders(&self, kernel: &str, from: &str, to: &str) {
        self.inner.hooks.add_edit(kernel, from, to);
    }

    /// Lets this many more allocations succeed; all others fail as if memory had run out, until it is set to `u64::MAX`.
    pub fn fail_allocations_after(&self, allocations: u64) {
        self.inner.hooks.set_allocations_left(allocations);
    }

    /// Loses the device, as a driver reset does. The application's device is only rejected here from now on. Without effect
    /// on the CPU kernels.
    pub fn lose(&self) {
        if let Some(context) = self.context() {
            context.destroy();
        }
    }

    /// Lets the queue give no answer any more, as one that hangs. Without effect on the CPU kernels.
    pub fn hang(&self) {
        self.inner.hooks.set_hangs();
    }

    /// Makes each future of the device pending for its first `polls` polls. It wakes itself.
    pub fn pend(&self, polls: u32) {
        self.inner.hooks.set_pending_polls(polls);
    }
}
