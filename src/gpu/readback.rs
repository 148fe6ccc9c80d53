//! Buffers read back to the host, several at a time.

use std::{
    marker::PhantomData,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use futures_channel::oneshot;

use super::{
    Buffer, Device, Element, GpuError,
    buffer::Storage,
    driver::{Gpu, lock},
};

/// Reads buffers back through a ring of staging buffers that are made once.
#[derive(Debug)]
pub struct Readback {
    ring: Arc<Ring>,
}

#[derive(Debug)]
struct Ring {
    device: Device,
    /// None on the CPU, where nothing has to be staged.
    staging: Vec<wgpu::Buffer>,
    bytes: u64,
    depth: usize,
    /// The places in the ring that nothing is read through.
    free: Mutex<Vec<usize>>,
}

/// Elements on their way to the host. Dropping it gives its place in the [`Readback`] back, once the copy is done.
#[derive(Debug)]
pub struct Pending<T> {
    ring: Arc<Ring>,
    place: usize,
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

/// A copy that is under way, and mapped when it is done.
#[derive(Debug)]
struct Copying {
    bytes: u64,
    /// None when it was not submitted.
    submission: Option<wgpu::SubmissionIndex>,
    mapped: oneshot::Receiver<Mapped>,
}

impl Readback {
    /// A reader of up to `len` elements of `T` at a time, `depth` times at once (at least once).
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`], [`GpuError::Lost`].
    pub async fn new<T: Element>(device: &Device, len: u64, depth: usize) -> Result<Self, GpuError> {
        let bytes = len.max(1).saturating_mul(size_of::<T>() as u64);
        let depth = depth.max(1);
        let mut staging = Vec::new();
        if let Some(gpu) = device.gpu() {
            for _ in 0..depth {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                staging.push(gpu.buffer("readback", bytes, usage).await?);
            }
        }
        let free = Mutex::new((0..depth).rev().collect());
        Ok(Self { ring: Arc::new(Ring { device: device.clone(), staging, bytes, depth, free }) })
    }

    /// Starts to read the first `len` elements of `buffer`, as they are after all that was submitted before. Does not wait.
    ///
    /// # Errors
    /// [`GpuError::ReadbackFull`] when all places are taken; [`GpuError::OutOfRange`] when there are fewer elements or this
    /// reader is too small or of another device; [`GpuError::Lost`].
    pub fn start<T: Element>(&self, device: &Device, buffer: &Buffer<T>, len: u64) -> Result<Pending<T>, GpuError> {
        let ring = &self.ring;
        let bytes = len.saturating_mul(size_of::<T>() as u64);
        let outside = || GpuError::OutOfRange { what: "a read", buffer: buffer.raw.label.clone() };
        let of_one_device = [ring.device.identity(), device.identity()].iter().all(|i| **i == buffer.raw.identity);
        if bytes > buffer.raw.bytes || bytes > ring.bytes || !of_one_device {
            return Err(outside());
        }
        let place = ring.take()?;
        let mut pending = Pending {
            ring: Arc::clone(ring),
            place,
            state: State::Ready(Vec::new()),
            label: buffer.raw.label.clone(),
            element: PhantomData,
        };
        match (&buffer.raw.storage, ring.staging.get(place), device.gpu()) {
            (Storage::Host(memory), None, None) => {
                let memory = memory.read().unwrap_or_else(PoisonError::into_inner);
                let words = memory.get(..bytes as usize / 4).ok_or_else(outside)?;
                pending.state = State::Ready(bytemuck::pod_collect_to_vec(words));
            }
            (Storage::Gpu(_), Some(_), Some(gpu)) if bytes == 0 => gpu.check()?,
            (Storage::Gpu(source), Some(staging), Some(gpu)) => {
                gpu.check()?;
                let (sender, receiver) = oneshot::channel();
                let given_up = Arc::clone(ring);
                // From here on dropping it leaves the place to the callback.
                pending.state = State::Copying(Copying { bytes, submission: None, mapped: receiver });
                let submission = gpu.now("a read", || {
                    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                    encoder.copy_buffer_to_buffer(source, 0, staging, 0, bytes);
                    let submission = gpu.submit(Some(encoder.finish()));
                    staging.map_async(wgpu::MapMode::Read, 0..bytes, move |mapped| {
                        if let Err(mapped) = sender.send(mapped) {
                            given_up.give_back(place, mapped.is_ok());
                        }
                    });
                    submission
                })?;
                gpu.check()?;
                if let State::Copying(copying) = &mut pending.state {
                    copying.submission = Some(submission);
                }
            }
            _ => return Err(outside()),
        }
        Ok(pending)
    }

    /// The first `len` elements of `buffer`, after all that was submitted before.
    ///
    /// # Errors
    /// Those of [`Readback::start`].
    pub async fn read<T: Element>(&self, device: &Device, buffer: &Buffer<T>, len: u64) -> Result<Vec<T>, GpuError> {
        let mut pending = match (self.start(device, buffer, len), device.gpu()) {
            // The places of readings that were given up are free when their copies are done.
            (Err(GpuError::ReadbackFull { .. }), Some(gpu)) => {
                gpu.wait().await?;
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
        if let Some(place) = free() {
            return Ok(place);
        }
        if let Some(gpu) = self.device.gpu() {
            gpu.poll(wgpu::PollType::Poll)?;
        }
        free().ok_or(GpuError::ReadbackFull { depth: self.depth })
    }

    /// Frees a place. One whose copy is under way must not be: were its staging buffer mapped again before that copy is
    /// done, wgpu would hand out what the earlier one leaves.
    fn give_back(&self, place: usize, mapped: bool) {
        if let (true, Some(gpu), Some(staging)) = (mapped, self.device.gpu(), self.staging.get(place)) {
            // It only fails on a lost device, which the next call tells.
            let _ = gpu.now("a read", || staging.unmap());
        }
        lock(&self.free).push(place);
    }

    /// The elements in a mapped staging buffer.
    fn elements<T: Element>(&self, gpu: &Gpu, place: usize, bytes: u64) -> Result<Vec<T>, GpuError> {
        let lost = |error: wgpu::MapRangeError| gpu.blame(GpuError::lost(error));
        let staging = self.staging.get(place).ok_or(GpuError::AlreadyRead)?;
        let view = staging.get_mapped_range(0..bytes).map_err(lost)?;
        Ok(bytemuck::pod_collect_to_vec(&view))
    }
}

impl<T: Element> Pending<T> {
    /// The elements. The future may be dropped at any time and this be called again.
    ///
    /// # Errors
    /// [`GpuError::Lost`], a fault left by an earlier submission, [`GpuError::OutOfRange`] for another device than it was
    /// started on; [`GpuError::AlreadyRead`] when the elements have been handed over before.
    pub async fn wait(&mut self, device: &Device) -> Result<Vec<T>, GpuError> {
        if self.ring.device.identity() != device.identity() {
            return Err(GpuError::OutOfRange { what: "a read", buffer: self.label.clone() });
        }
        device.pending().await;
        if let (State::Copying(copying), Some(gpu)) = (&mut self.state, device.gpu()) {
            let mapped = gpu.finish(&mut copying.mapped, copying.submission.clone()).await?;
            let elements = match &mapped {
                Ok(()) => self.ring.elements(gpu, self.place, copying.bytes),
                Err(error) => Err(gpu.blame(GpuError::lost(error.clone()))),
            };
            self.state = State::Taken;
            self.ring.give_back(self.place, mapped.is_ok());
            return elements;
        }
        match mem::replace(&mut self.state, State::Taken) {
            State::Ready(elements) => {
                self.ring.give_back(self.place, false);
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
                // Either the answer is here, or whoever brings it finds nobody and frees the place.
                mapped.close();
                if let Ok(Some(mapped)) = mapped.try_recv() {
                    self.ring.give_back(self.place, mapped.is_ok());
                }
            }
            State::Ready(_) => self.ring.give_back(self.place, false),
            State::Taken => {}
        }
    }
}
