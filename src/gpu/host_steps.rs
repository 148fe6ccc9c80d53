//! Steps of a GPU's plan that run on the host, by their CPU kernels.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use super::{Buffer, Device, GpuError, Plan, RawBuffer, Readback, Step, cpu_kernel, driver::Gpu};

/// What steps on the host go through: their buffers are gathered into one, so that a run of them waits only once.
#[derive(Debug)]
pub(super) struct HostSteps {
    gathered: Buffer<u32>,
    readback: Readback,
}

impl HostSteps {
    /// Room for the runs of such steps in `plan`; `None` where there are none.
    pub(super) async fn new(device: &Device, gpu: &Gpu, plan: &Plan) -> Result<Option<Self>, GpuError> {
        let runs = plan.steps.chunk_by(|a, b| a.on_host == b.on_host).filter(|run| run.iter().any(|s| s.on_host));
        let Some(words) = runs.map(|run| bound(run).values().map(|b| b.bytes / 4).sum::<u64>()).max() else {
            return Ok(None);
        };
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let gathered = Buffer::unbound((device, gpu), "buffers of steps on the host", words, usage).await?;
        Ok(Some(Self { gathered, readback: Readback::new::<u32>(device, words, 1).await? }))
    }

    /// Runs steps on the host, after all that was submitted before.
    pub(super) async fn run(&self, device: &Device, steps: &[Step]) -> Result<(), GpuError> {
        let Some(gpu) = device.gpu() else { return Err(self.gathered.raw.foreign()) };
        let buffers = bound(steps);
        let target = self.gathered.raw.on_gpu()?;
        let sources = buffers.values().map(|buffer| Ok((buffer.on_gpu()?, buffer.bytes)));
        let sources: Vec<_> = sources.collect::<Result<_, GpuError>>()?;
        let bytes = gpu.now("a copy", || {
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut to = 0;
            for (source, bytes) in sources {
                encoder.copy_buffer_to_buffer(source, 0, target, to, bytes);
                to += bytes;
            }
            gpu.submit(Some(encoder.finish()));
            to
        })?;
        let words = self.readback.read(device, &self.gathered, bytes / 4).await?;
        let mut memory = HashMap::with_capacity(buffers.len());
        let mut rest = &words[..];
        for (id, buffer) in &buffers {
            let (words, others) = rest.split_at_checked(buffer.bytes as usize / 4).ok_or_else(|| buffer.foreign())?;
            memory.insert(*id, RwLock::new(words.to_vec()));
            rest = others;
        }
        for step in steps {
            cpu_kernel::run_on(step, |buffer| memory.get(&buffer.id))?;
        }
        // Once each, though several steps may write it.
        for buffer in steps.iter().flat_map(Step::written) {
            let Some(words) = memory.remove(&buffer.id) else { continue };
            let words = words.into_inner().unwrap_or_else(PoisonError::into_inner);
            device.write(&Buffer::<u32>::of(buffer), 0, &words).await?;
        }
        Ok(())
    }
}

/// The buffers that steps bind, by their id.
fn bound(steps: &[Step]) -> BTreeMap<u64, &Arc<RawBuffer>> {
    steps.iter().flat_map(|step| step.buffers.iter().flatten()).map(|buffer| (buffer.id, buffer)).collect()
}
