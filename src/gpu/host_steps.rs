//! Steps of a GPU's plan that run on the host, by their CPU kernels.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use super::{Buffer, Device, GpuError, Plan, RawBuffer, Readback, Step, context::Context, cpu_kernel};

/// The staging memory of steps on the host. The buffers of consecutive steps are gathered into one, to wait only once.
#[derive(Debug)]
pub(super) struct HostSteps {
    gathered: Buffer<u32>,
    readback: Readback,
}

impl HostSteps {
    /// Allocates memory for the steps on the host in `plan`; `None` if there are none.
    pub(super) async fn new(device: &Device, context: &Context, plan: &Plan) -> Result<Option<Self>, GpuError> {
        let runs = plan.steps.chunk_by(|a, b| a.on_host == b.on_host).filter(|run| run.iter().any(|s| s.on_host));
        let Some(words) = runs.map(|run| bound(run).values().map(|b| b.bytes / 4).sum::<u64>()).max() else {
            return Ok(None);
        };
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let gathered = device.alloc_unbound(context, "buffers of steps on the host", words, usage).await?;
        Ok(Some(Self { gathered, readback: Readback::new::<u32>(device, words, 1).await? }))
    }

    /// Runs steps on the host, after all earlier submissions.
    pub(super) async fn run(&self, device: &Device, steps: &[Step]) -> Result<(), GpuError> {
        let Some(context) = device.context() else { return Err(self.gathered.raw.foreign()) };
        let buffers = bound(steps);
        let target = self.gathered.raw.on_gpu()?;
        let sources = buffers.values().map(|buffer| Ok((buffer.on_gpu()?, buffer.bytes)));
        let sources: Vec<_> = sources.collect::<Result<_, GpuError>>()?;
        let bytes = context.call("a copy", || {
            let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut to = 0;
            for (source, bytes) in sources {
                encoder.copy_buffer_to_buffer(source, 0, target, to, bytes);
                to += bytes;
            }
            context.submit(Some(encoder.finish()));
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
        // Several steps may write the same buffer.
        for buffer in steps.iter().flat_map(Step::written) {
            let Some(words) = memory.remove(&buffer.id) else { continue };
            let words = words.into_inner().unwrap_or_else(PoisonError::into_inner);
            device.write(&Buffer::<u32>::of(buffer), 0, &words).await?;
        }
        Ok(())
    }
}

/// Returns the buffers that steps bind, by id.
fn bound(steps: &[Step]) -> BTreeMap<u64, &Arc<RawBuffer>> {
    steps.iter().flat_map(|step| step.buffers.iter().flatten()).map(|buffer| (buffer.id, buffer)).collect()
}
