//! A wgpu device with its queue: calls whose errors are caught, and the loss of the device.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{
    GpuError,
    counters::Counters,
    error_scope::{Caught, caught},
    hooks::Hooks,
    poller::Poller,
    watchdog::Watchdog,
};

/// A wgpu device with its queue, created by this library or by the application.
#[derive(Debug)]
pub(crate) struct Context {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) counters: Counters,
    pub(super) watchdog: Watchdog,
    pub(super) hooks: Arc<Hooks>,
    pub(super) poller: Poller,
    owner: Owner,
    /// The reason for the device's loss, or the first error that no scope caught.
    fault: Arc<Mutex<Option<Fault>>>,
    /// Errors that a browser has not reported yet.
    deferred: Mutex<Vec<Caught>>,
}

/// The owner of a wgpu device.
#[derive(Debug)]
enum Owner {
    /// This library. The device reports its loss.
    Library,
    /// The application. Its error handlers stay installed.
    Application {
        /// The buffer that [`Context::is_lost_silently`] writes to.
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
    /// The driver reported it.
    Reported(String),
    /// The queue made no progress for this long.
    Hung(Duration),
}

impl Loss {
    fn error(&self) -> GpuError {
        match self {
            Self::Reported(message) => GpuError::lost(message.as_str()),
            Self::Hung(waited) => GpuError::Hung { waited: *waited },
        }
    }
}

/// The bytes of uploads in flight from which on a write waits. wgpu frees their staging memory when they are done.
const MAX_UPLOAD_IN_FLIGHT: u64 = 32 << 20;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Context {
    fn new(device: wgpu::Device, queue: wgpu::Queue, software: bool, hooks: Arc<Hooks>, owner: Owner) -> Self {
        Self {
            poller: Poller::new(&device, Arc::clone(&hooks), matches!(owner, Owner::Application { .. })),
            device,
            queue,
            counters: Counters::default(),
            watchdog: Watchdog::new(software),
            hooks,
            owner,
            fault: Arc::default(),
            deferred: Mutex::default(),
        }
    }

    /// Takes a device that this library has created.
    pub(super) fn own(device: wgpu::Device, queue: wgpu::Queue, software: bool, hooks: Arc<Hooks>) -> Self {
        let context = Self::new(device, queue, software, hooks, Owner::Library);
        let (lost, uncaptured) = (Arc::clone(&context.fault), Arc::clone(&context.fault));
        context.device.set_device_lost_callback(move |reason, message| {
            if !matches!(reason, wgpu::DeviceLostReason::Destroyed) {
                *lock(&lost) = Some(Fault::Lost(Loss::Reported(message)));
            }
        });
        context.device.on_uncaptured_error(Arc::new(move |error| {
            lock(&uncaptured).get_or_insert(Fault::Uncaptured(GpuError::from_wgpu(error, "a submission")));
        }));
        context
    }

    /// Takes a device that the application has created and still uses. Installs no handler on it.
    pub(super) fn of_application(
        device: wgpu::Device,
        queue: wgpu::Queue,
        software: bool,
        hooks: Arc<Hooks>,
    ) -> Result<Self, GpuError> {
        let (probe, created) = caught(&device, || {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("ferrum-wgpu probe"),
                size: 4,
                usage: wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        });
        if let Ok(Some(error)) = created.error_now() {
            return Err(GpuError::from_wgpu(error, "a probe of the device"));
        }
        // A lost device returns an invalid buffer without an error, and rejects every use of it.
        let ((), written) = caught(&device, || queue.write_buffer(&probe, 0, &[]));
        let context = Self::new(device, queue, software, hooks, Owner::Application { probe });
        match written.error_now() {
            Ok(Some(error)) => Err(context.lose(Loss::Reported(error.to_string()))),
            _ => Ok(context),
        }
    }

    /// Makes `calls` and returns their error, without waiting. In a browser the next wait returns it. A lost device gets no
    /// calls: a driver may never return from a submission to a queue that hangs.
    pub(super) fn call<R>(&self, what: &str, calls: impl FnOnce() -> R) -> Result<R, GpuError> {
        if let Some(lost) = self.known_loss() {
            return Err(lost);
        }
        let (value, caught) = caught(&self.device, calls);
        match caught.error_now() {
            Ok(None) => Ok(value),
            Ok(Some(error)) => Err(self.prefer_loss(GpuError::from_wgpu(error, what))),
            Err(deferred) => {
                lock(&self.deferred).push(deferred);
                Ok(value)
            }
        }
    }

    /// Returns the device's loss if there is one, since it causes other errors, and otherwise `error`.
    pub(super) fn prefer_loss(&self, error: GpuError) -> GpuError {
        self.loss().unwrap_or(error)
    }

    /// Creates a wgpu buffer, mapped if `usage` has `MAP_WRITE`. Returns an error where wgpu creates an invalid buffer.
    pub(super) async fn buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, GpuError> {
        let out_of_memory = || GpuError::OutOfMemory { label: label.to_owned(), bytes };
        if !self.hooks.takes_allocation() {
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
            Some(wgpu::Error::OutOfMemory { .. }) => Err(self.prefer_loss(out_of_memory())),
            Some(error) => Err(self.prefer_loss(GpuError::from_wgpu(error, label))),
            None => {
                self.counters.buffers.add(1);
                self.check().map(|()| buffer)
            }
        }
    }

    /// Writes `bytes` before any later submission. Returns true when enough is in flight that the next write should wait.
    pub(super) fn write(&self, target: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<bool, GpuError> {
        self.call("a write", || self.queue.write_buffer(target, offset, bytes))?;
        self.check()?;
        let in_flight = self.counters.uploading.add(bytes.len() as u64);
        self.counters.most_uploading.raise_to(in_flight);
        Ok(in_flight >= MAX_UPLOAD_IN_FLIGHT)
    }

    /// Writes `bytes` to a mapped buffer.
    pub(super) fn write_mapped(&self, target: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<(), GpuError> {
        if bytes.is_empty() {
            return self.check();
        }
        let lost = |error: wgpu::MapRangeError| self.prefer_loss(GpuError::lost(error));
        let mut view = target.get_mapped_range_mut(offset..offset + bytes.len() as u64).map_err(lost)?;
        view.slice(..).copy_from_slice(bytes);
        self.check()
    }

    /// Waits for the errors that a browser had not reported yet, and returns the first.
    pub(super) async fn deferred_errors(&self) -> Result<(), GpuError> {
        loop {
            let Some(deferred) = lock(&self.deferred).pop() else { return Ok(()) };
            if let Some(error) = deferred.error().await {
                return Err(self.prefer_loss(GpuError::from_wgpu(error, "a submission")));
            }
        }
    }

    /// Returns whether the application owns the device.
    #[cfg(feature = "test-util")]
    pub(super) fn is_of_application(&self) -> bool {
        matches!(self.owner, Owner::Application { .. })
    }

    /// Destroys the library's own device. The application's device stays, but every further call here fails.
    #[cfg(feature = "test-util")]
    pub(super) fn destroy(&self) {
        if !self.is_of_application() {
            self.device.destroy();
        }
        self.lose(Loss::Reported("it was destroyed".to_owned()));
    }

    /// Returns the error of a request that the driver dropped.
    pub(super) fn dropped(&self) -> GpuError {
        self.prefer_loss(GpuError::lost("the driver dropped a request"))
    }

    /// Records the loss of the device, and returns the first loss recorded as an error.
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

    /// Returns whether the device was lost by hanging.
    pub(super) fn has_hung(&self) -> bool {
        matches!(&*lock(&self.fault), Some(Fault::Lost(Loss::Hung(_))))
    }

    /// Returns the first uncaught error, once; the loss of the device, always.
    pub(super) fn check(&self) -> Result<(), GpuError> {
        if let Some(lost) = self.loss() {
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

    fn loss(&self) -> Option<GpuError> {
        let lose = || self.lose(Loss::Reported("the application's device is lost or destroyed".to_owned()));
        self.known_loss().or_else(|| self.is_lost_silently().then(lose))
    }

    fn known_loss(&self) -> Option<GpuError> {
        match &*lock(&self.fault) {
            Some(Fault::Lost(loss)) => Some(loss.error()),
            _ => None,
        }
    }

    /// Returns whether the application's device is lost, which is reported to the application alone. wgpu returns no errors
    /// for calls on a lost device, not even for an invalid write (an offset that is no multiple of four). In a browser no
    /// error is immediate, so that there a loss is found when a result is read.
    fn is_lost_silently(&self) -> bool {
        let Owner::Application { probe } = &self.owner else { return false };
        if cfg!(target_arch = "wasm32") {
            return false;
        }
        let ((), caught) = caught(&self.device, || self.queue.write_buffer(probe, 1, &[]));
        matches!(caught.error_now(), Ok(None))
    }
}
