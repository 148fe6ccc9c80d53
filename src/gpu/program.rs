//! A plan made ready for a device, and its running: compute passes on a GPU, or the twins one after the other.

use std::{ops::Range, sync::PoisonError};

use super::{
    Buffer, Device, Element, GpuError, Plan, RawBuffer, Step, buffer::Storage, device::Gpu, encode::GpuProgram,
    host_steps::HostSteps, twin,
};

/// A plan with everything that a device needs to run it. Running it creates no buffer, bind group or pipeline.
#[derive(Debug)]
pub struct Program {
    plan: Plan,
    pub(super) gpu: Option<GpuProgram>,
    /// What steps on the host need, where there are some beside a GPU's.
    pub(super) host: Option<HostSteps>,
}

impl Program {
    /// A program that does nothing yet.
    pub fn new(device: &Device) -> Self {
        Self { plan: Plan::default(), gpu: device.gpu().map(|_| GpuProgram::default()), host: None }
    }

    /// The plan it runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes `plan` in place of the one before, reusing bind groups and the parameter buffer.
    ///
    /// # Errors
    /// [`GpuError::Shader`] for a kernel that does not compile, [`GpuError::GridTooLarge`], [`GpuError::OutOfMemory`],
    /// [`GpuError::OutOfRange`] for a buffer of another device. The program then does nothing.
    pub async fn prepare(&mut self, device: &Device, plan: Plan) -> Result<(), GpuError> {
        // A program that failed to be prepared must not run in part.
        (self.plan, self.host) = (Plan::default(), None);
        if let (Some(program), Some(gpu)) = (&mut self.gpu, device.gpu()) {
            program.prepare(gpu, device.caps(), &plan).await?;
            self.host = HostSteps::new(device, gpu, &plan).await?;
        }
        self.plan = plan;
        Ok(())
    }

    /// True when steps run on the host beside a GPU's ([`Recorder::on_host`](super::Recorder::on_host)):
    /// [`Program::submit`] is then refused.
    pub fn has_host_steps(&self) -> bool {
        self.host.is_some()
    }

    /// The plan's steps in `count` ranges of about as many steps, in order, for as many submissions: a driver may end
    /// one that takes seconds. Fewer where there are fewer steps.
    pub fn parts(&self, count: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (steps, count) = (self.plan.steps.len(), count.max(1));
        let count = count.min(steps);
        (0..count).map(move |i| i * steps / count..(i + 1) * steps / count)
    }

    /// Runs the plan. Steps of a GPU are only submitted: reading a result waits, and so does a step on the host.
    ///
    /// # Errors
    /// [`GpuError::Lost`], or a fault left by an earlier submission; on the CPU [`GpuError::OutOfRange`] for a buffer
    /// of another device.
    pub async fn run(&self, device: &Device) -> Result<(), GpuError> {
        self.run_steps(device, 0..self.plan.steps.len()).await
    }

    /// Runs some of the plan's steps; a range that the plan does not have is empty.
    ///
    /// # Errors
    /// Those of [`Program::run`].
    pub async fn run_steps(&self, device: &Device, steps: Range<usize>) -> Result<(), GpuError> {
        let Some(host) = &self.host else { return self.submit_steps(device, steps) };
        let mut first = steps.start;
        for run in self.steps(steps).chunk_by(|a, b| a.on_host == b.on_host) {
            let range = first..first + run.len();
            first = range.end;
            if run.iter().any(|step| step.on_host) {
                host.run(device, run).await?;
            } else {
                self.submit_steps(device, range)?;
            }
        }
        Ok(())
    }

    /// As [`Program::run`], but never waits for a GPU.
    ///
    /// # Errors
    /// Those of [`Program::run`], and [`GpuError::HostSteps`] for a program that has some.
    pub fn submit(&self, device: &Device) -> Result<(), GpuError> {
        self.submit_steps(device, 0..self.plan.steps.len())
    }

    /// As [`Program::run_steps`], but never waits for a GPU.
    ///
    /// # Errors
    /// Those of [`Program::run`], and [`GpuError::HostSteps`] where some of the steps are such.
    pub fn submit_steps(&self, device: &Device, steps: Range<usize>) -> Result<(), GpuError> {
        let (Some(program), Some(gpu)) = (&self.gpu, device.gpu()) else {
            return self.steps(steps).iter().try_for_each(twin::run);
        };
        if self.steps(steps.clone()).iter().any(|step| step.on_host) {
            return Err(GpuError::HostSteps);
        }
        program.submit(gpu, steps)
    }

    /// The plan's steps in a range; none for one that the plan does not have.
    fn steps(&self, range: Range<usize>) -> &[Step] {
        self.plan.steps.get(range).unwrap_or_default()
    }
}

pub(super) fn foreign(buffer: &RawBuffer) -> GpuError {
    GpuError::OutOfRange { what: "a binding", buffer: buffer.label.clone() }
}

/// Reads buffers back through one staging buffer that is made once.
#[derive(Debug)]
pub struct Readback {
    staging: Option<wgpu::Buffer>,
    bytes: u64,
}

impl Readback {
    /// A reader of up to `len` elements of `T` at a time.
    ///
    /// # Errors
    /// [`GpuError::OutOfMemory`].
    pub async fn new<T: Element>(device: &Device, len: u64) -> Result<Self, GpuError> {
        let bytes = len.max(1) * size_of::<T>() as u64;
        let staging = match device.gpu() {
            Some(gpu) => {
                let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
                Some(gpu.buffer("readback", bytes, usage).await?)
            }
            None => None,
        };
        Ok(Self { staging, bytes })
    }

    /// The first `len` elements of `buffer`, after all that was submitted before.
    ///
    /// # Errors
    /// [`GpuError::OutOfRange`] when there are fewer or this reader is too small; [`GpuError::Lost`].
    pub async fn read<T: Element>(&self, device: &Device, buffer: &Buffer<T>, len: u64) -> Result<Vec<T>, GpuError> {
        let bytes = len.saturating_mul(size_of::<T>() as u64);
        let outside = || GpuError::OutOfRange { what: "a read", buffer: buffer.raw.label.clone() };
        if bytes > buffer.raw.bytes || bytes > self.bytes {
            return Err(outside());
        }
        let words = match (&buffer.raw.storage, &self.staging, device.gpu()) {
            (Storage::Host(memory), ..) => {
                let memory = memory.read().unwrap_or_else(PoisonError::into_inner);
                memory.get(..bytes as usize / 4).ok_or_else(outside)?.to_vec()
            }
            (Storage::Gpu(source), Some(staging), Some(gpu)) => read_words(gpu, source, staging, bytes).await?,
            _ => return Err(foreign(&buffer.raw)),
        };
        Ok(bytemuck::cast_slice(&words).to_vec())
    }
}

async fn read_words(
    gpu: &Gpu,
    source: &wgpu::Buffer,
    staging: &wgpu::Buffer,
    bytes: u64,
) -> Result<Vec<u32>, GpuError> {
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    encoder.copy_buffer_to_buffer(source, 0, staging, 0, bytes);
    gpu.queue.submit([encoder.finish()]);
    let (sender, receiver) = futures_channel::oneshot::channel();
    staging.map_async(wgpu::MapMode::Read, 0..bytes, move |result| {
        let _ = sender.send(result);
    });
    gpu.finish(receiver).await?.map_err(|error| GpuError::Lost(error.to_string()))?;
    let lost = |error: wgpu::MapRangeError| GpuError::Lost(error.to_string());
    let words = bytemuck::pod_collect_to_vec(&staging.get_mapped_range(0..bytes).map_err(lost)?);
    staging.unmap();
    Ok(words)
}
