//! A wgpu device with its queue: its errors, its loss, and waiting for it. The device is ours, or an application's that we
//! are guests of.

use std::{
    any::Any,
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures_channel::oneshot;

use super::{
    GpuError,
    device::Created,
    pipeline::PipelineCache,
    scope::{Caught, caught},
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
    pub(crate) allowance: Allowance,
    pub(crate) made: Made,
    owner: Owner,
    /// The reason of the device's loss, or the first error that no scope caught.
    fault: Arc<Mutex<Option<Fault>>>,
    /// Times that somebody waited.
    waits: AtomicU64,
    /// Bytes written that the queue has not been waited for, and the most that these have been.
    uploading: AtomicU64,
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
    Lost(String),
    Uncaptured(GpuError),
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    fn new(info: &wgpu::AdapterInfo, device: wgpu::Device, queue: wgpu::Queue, owner: Owner) -> Self {
        Self {
            device,
            queue,
            pipelines: PipelineCache::default(),
            name: info.name.clone(),
            fingerprint: format!("{ENGINE}; {}; {}; {} {}", info.backend, info.name, info.driver, info.driver_info),
            software: info.device_type == wgpu::DeviceType::Cpu,
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
                *lock(&lost) = Some(Fault::Lost(message));
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
            Ok(Some(error)) => Err(gpu.lose(error.to_string())),
            _ => Ok(gpu),
        }
    }

    /// Makes `calls` without waiting, and gives their error. In a browser it is the next wait that gives it.
    pub(crate) fn now<R>(&self, what: &str, calls: impl FnOnce() -> R) -> Result<R, GpuError> {
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

    /// A wgpu buffer, with an error where wgpu would make an invalid one.
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
                mapped_at_creation: false,
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

    /// Submits what was written and waits for it.
    pub(crate) async fn flush(&self) -> Result<(), GpuError> {
        self.now("a write", || self.queue.submit([]))?;
        self.wait().await
    }

    /// Waits until all submitted work is done, and reports what went wrong in it.
    pub(crate) async fn wait(&self) -> Result<(), GpuError> {
        let (sender, mut receiver) = oneshot::channel();
        // What others write meanwhile may not be done then.
        let written = self.uploading.load(Ordering::Relaxed);
        self.now("a wait", || {
            self.queue.on_submitted_work_done(move || {
                let _ = sender.send(());
            });
        })?;
        self.finish(&mut receiver, None).await?;
        // Two that wait at once may both have counted the same.
        let less = |left: u64| Some(left.saturating_sub(written));
        let _ = self.uploading.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        Ok(())
    }

    /// The most bytes that were written and not waited for.
    pub(crate) fn most_uploading(&self) -> u64 {
        self.most_uploading.load(Ordering::Relaxed)
    }

    /// Times that the host waited for an answer.
    pub(crate) fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }

    /// Drives the device until `receiver` has its answer, which comes when `submission` is done, or all are. May be dropped
    /// and called again.
    pub(crate) async fn finish<T>(
        &self,
        receiver: &mut oneshot::Receiver<T>,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Result<T, GpuError> {
        self.check()?;
        self.waits.fetch_add(1, Ordering::Relaxed);
        loop {
            let Some(later) = lock(&self.unanswered).pop() else { break };
            if let Some(error) = later.error().await {
                return Err(self.blame(GpuError::from_wgpu(error, "a submission")));
            }
        }
        if matches!(self.owner, Owner::Application { .. }) {
            return poll_fn(|context| self.look(receiver, context)).await;
        }
        // Natively callbacks run inside poll; in a browser the event loop runs them.
        self.poll(wgpu::PollType::Wait { submission_index: submission, timeout: None })?;
        self.check()?;
        receiver.await.map_err(|_| self.dropped())
    }

    /// Looks for an answer without blocking. Natively nobody else may be polling, so that it is looked for again as soon as
    /// the executor likes; in a browser that would keep the event loop from running.
    fn look<T>(&self, receiver: &mut oneshot::Receiver<T>, context: &mut Context<'_>) -> Poll<Result<T, GpuError>> {
        let polled = if cfg!(target_arch = "wasm32") { None } else { Some(self.poll(wgpu::PollType::Poll)?) };
        if let Poll::Ready(answer) = Pin::new(receiver).poll(context) {
            return Poll::Ready(answer.map_err(|_| self.dropped()));
        }
        if let Some(status) = polled {
            if status.is_queue_empty() {
                // The answer is on its way from another thread's poll, or the device is lost.
                self.check()?;
            }
            std::thread::yield_now();
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Runs the callbacks of what is done.
    pub(crate) fn poll(&self, how: wgpu::PollType) -> Result<wgpu::PollStatus, GpuError> {
        // wgpu panics where a driver reports here that the device is lost. What panics in a callback is not ours.
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(how))) {
            Ok(Ok(status)) => Ok(status),
            Ok(Err(error)) => Err(self.lose(error.to_string())),
            Err(panic) if is_of_poll(&*panic) => Err(self.lose("the driver reported it in a wait".to_owned())),
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Destroys a device of ours; one of an application is only refused from now on.
    pub(crate) fn destroy(&self) {
        if matches!(self.owner, Owner::Us) {
            self.device.destroy();
        }
        self.lose("it was destroyed".to_owned());
    }

    fn dropped(&self) -> GpuError {
        self.blame(GpuError::Lost("the driver dropped a request".to_owned()))
    }

    /// Takes the device for lost, if nothing has told more of it before.
    pub(crate) fn lose(&self, message: String) -> GpuError {
        let mut fault = lock(&self.fault);
        match &*fault {
            Some(Fault::Lost(first)) => GpuError::Lost(first.clone()),
            _ => {
                *fault = Some(Fault::Lost(message.clone()));
                GpuError::Lost(message)
            }
        }
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
        if let Some(Fault::Lost(message)) = &*lock(&self.fault) {
            return Some(GpuError::Lost(message.clone()));
        }
        self.refuses_in_silence().then(|| self.lose("the application's device is lost or destroyed".to_owned()))
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

/// Whether a panic is wgpu's way to say that a poll failed.
fn is_of_poll(panic: &(dyn Any + Send)) -> bool {
    panic.downcast_ref::<String>().is_some_and(|message| message.starts_with("Error in Device::poll"))
}
