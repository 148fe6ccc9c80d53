//! Reading of buffers back to the host, several at a time.

use std::{
    marker::PhantomData,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use futures_channel::oneshot;

use super::{
    Buffer, Device, Element, GpuError,
    buffer::Storage,
    context::{Context, lock},
};

/// Reads buffers back through a ring of staging buffers.
#[derive(Debug)]
pub struct Readback {
    ring: Arc<Ring>,
}

#[derive(Debug)]
struct Ring {
    device: Device,
    /// Empty on the CPU.
    staging: Vec<wgpu::Buffer>,
    bytes: u64,
    depth: usize,
    /// The slots of the ring that are free.
    free: Mutex<Vec<usize>>,
}

/// A read in flight. Dropping it frees its slot of the [`Readback`] once the copy is done.
#[derive(Debug)]
pub struct Pending<T> {
    ring: Arc<Ring>,
    slot: usize,
    state: State<T>,
    label: String,
    element: PhantomData<fn() -> T>,
}

type Mapped = Result<(), wgpu::BufferAsyncError>;

#[derive(Debug)]
enum State<T> {
    Copying(Copying),
    Ready(Vec<T>),
    Taken,
}

/// A copy in flight, which is mapped when it is done.
#[derive(Debug)]
struct Copying {
    bytes: u64,
    /// `None` if it was not submitted.
    submission: Option<wgpu::SubmissionIndex>,
    mapped: oneshot::Receiver<Mapped>,
}

impl Readback {
    /// Creates a reader of at most `len` elements of `T` at a time, with `depth` (at least 1) reads in flight.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`], [`GpuError::Lost`].
    pub async fn new<T: Element>(device: &Device, len: u64, depth: usize) -> Result<Self, GpuError> {
        let bytes = len.max(1).saturating_mul(size_of::<T>() as u64);
        let depth = depth.max(1);
        let mut staging = Vec::new();
        if let Some(context) = device.context() {
            for _ in 0..depth {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                staging.push(context.buffer("readback", bytes, usage).await?);
            }
        }
        let free = Mutex::new((0..depth).rev().collect());
        Ok(Self { ring: Arc::new(Ring { device: device.clone(), staging, bytes, depth, free }) })
    }

    /// Starts to read the first `len` elements of `buffer`, after all earlier submissions. Does not wait.
    ///
    /// # Errors
    /// [`GpuError::ReadbackFull`] when all slots are in use; [`GpuError::OutOfRange`] when the buffer or this reader is too
    /// small or of another device; [`GpuError::Lost`].
    pub fn start<T: Element>(&self, device: &Device, buffer: &Buffer<T>, len: u64) -> Result<Pending<T>, GpuError> {
        let ring = &self.ring;
        let bytes = len.saturating_mul(size_of::<T>() as u64);
        let out_of_range = || GpuError::OutOfRange { what: "a read", buffer: buffer.raw.label.clone() };
        let of_one_device = [ring.device.identity(), device.identity()].iter().all(|i| **i == buffer.raw.identity);
        if bytes > buffer.raw.bytes || bytes > ring.bytes || !of_one_device {
            return Err(out_of_range());
        }
        let slot = ring.take()?;
        let mut pending = Pending {
            ring: Arc::clone(ring),
            slot,
            state: State::Ready(Vec::new()),
            label: buffer.raw.label.clone(),
            element: PhantomData,
        };
        match (&buffer.raw.storage, ring.staging.get(slot), device.context()) {
            (Storage::Host(memory), None, None) => {
                let memory = memory.read().unwrap_or_else(PoisonError::into_inner);
                let words = memory.get(..bytes as usize / 4).ok_or_else(out_of_range)?;
                pending.state = State::Ready(bytemuck::pod_collect_to_vec(words));
            }
            (Storage::Gpu(_), Some(_), Some(context)) if bytes == 0 => context.check()?,
            (Storage::Gpu(source), Some(staging), Some(context)) => {
                context.check()?;
                let (sender, receiver) = oneshot::channel();
                let abandoned = Arc::clone(ring);
                // If it is dropped from here on, the callback frees the slot.
                pending.state = State::Copying(Copying { bytes, submission: None, mapped: receiver });
                let submission = context.call("a read", || {
                    let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                    encoder.copy_buffer_to_buffer(source, 0, staging, 0, bytes);
                    let submission = context.submit(Some(encoder.finish()));
                    staging.map_async(wgpu::MapMode::Read, 0..bytes, move |mapped| {
                        if let Err(mapped) = sender.send(mapped) {
                            abandoned.free(slot, mapped.is_ok());
                        }
                    });
                    submission
                })?;
                context.check()?;
                if let State::Copying(copying) = &mut pending.state {
                    copying.submission = Some(submission);
                }
            }
            _ => return Err(out_of_range()),
        }
        Ok(pending)
    }

    /// Reads the first `len` elements of `buffer`, after all earlier submissions.
    ///
    /// # Errors
    /// Those of [`Readback::start`].
    pub async fn read<T: Element>(&self, device: &Device, buffer: &Buffer<T>, len: u64) -> Result<Vec<T>, GpuError> {
        let mut pending = match (self.start(device, buffer, len), device.context()) {
            // The slots of dropped reads are free when their copies are done.
            (Err(GpuError::ReadbackFull { .. }), Some(context)) => {
                context.wait().await?;
                self.start(device, buffer, len)?
            }
            (started, _) => started?,
        };
        pending.wait(device).await
    }
}

impl Ring {
    fn take(&self) -> Result<usize, GpuError> {
        let free = || lock(&self.free).pop();
        if let Some(slot) = free() {
            return Ok(slot);
        }
        if let Some(context) = self.device.context() {
            context.poll(wgpu::PollType::Poll)?;
        }
        free().ok_or(GpuError::ReadbackFull { depth: self.depth })
    }

    /// Frees a slot whose copy is done. If its staging buffer were mapped again before the copy is done, wgpu would return
    /// the contents of the earlier one (docs/UPSTREAM.md).
    fn free(&self, slot: usize, mapped: bool) {
        if let (true, Some(context), Some(staging)) = (mapped, self.device.context(), self.staging.get(slot)) {
            // It only fails on a lost device, which the next call reports.
            let _ = context.call("a read", || staging.unmap());
        }
        lock(&self.free).push(slot);
    }

    /// Returns the elements of a mapped staging buffer.
    fn elements<T: Element>(&self, context: &Context, slot: usize, bytes: u64) -> Result<Vec<T>, GpuError> {
        let lost = |error: wgpu::MapRangeError| context.prefer_loss(GpuError::lost(error));
        let staging = self.staging.get(slot).ok_or(GpuError::AlreadyRead)?;
        let view = staging.get_mapped_range(0..bytes).map_err(lost)?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }
}

impl<T: Element> Pending<T> {
    /// Waits for the elements. The future may be dropped at any time, and this called again.
    ///
    /// # Errors
    /// [`GpuError::Lost`]; an error of an earlier submission; [`GpuError::OutOfRange`] on another device than it was started
    /// on; [`GpuError::AlreadyRead`] if it has returned the elements before.
    pub async fn wait(&mut self, device: &Device) -> Result<Vec<T>, GpuError> {
        if self.ring.device.identity() != device.identity() {
            return Err(GpuError::OutOfRange { what: "a read", buffer: self.label.clone() });
        }
        device.pending().await;
        if let (State::Copying(copying), Some(context)) = (&mut self.state, device.context()) {
            let mapped = context.finish(&mut copying.mapped, copying.submission.clone()).await?;
            let elements = match &mapped {
                Ok(()) => self.ring.elements(context, self.slot, copying.bytes),
                Err(error) => Err(context.prefer_loss(GpuError::lost(error.clone()))),
            };
            self.state = State::Taken;
            self.ring.free(self.slot, mapped.is_ok());
            return elements;
        }
        match mem::replace(&mut self.state, State::Taken) {
            State::Ready(elements) => {
                self.ring.free(self.slot, false);
                Ok(elements)
            }
            State::Copying(..) | State::Taken => Err(GpuError::AlreadyRead),
        }
    }
}

impl<T> Drop for Pending<T> {
    fn drop(&mut self) {
        match mem::replace(&mut self.state, State::Taken) {
            State::Copying(Copying { mut mapped, .. }) => {
                // Either the result has arrived, or its callback finds the channel closed and frees the slot.
                mapped.close();
                if let Ok(Some(mapped)) = mapped.try_recv() {
                    self.ring.free(self.slot, mapped.is_ok());
                }
            }
            State::Ready(_) => self.ring.free(self.slot, false),
            State::Taken => {}
        }
    }
}
