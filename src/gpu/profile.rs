//! The time that the stages of a program take.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use super::{
    Buffer, Device, GpuError, Program, Readback, Scope, Stage, Step, backend::Gpu, context::Context, cpu_kernel,
    encode::GpuProgram, plan::HostAction,
};

/// The time of consecutive steps of one scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageTime {
    /// The scope of the steps ([`Recorder::scope`](super::Recorder::scope)). What the host does before the steps of a layer is
    /// a stage of its own, [`Stage::LoadExperts`].
    pub scope: Scope,
    /// The number of steps.
    pub dispatches: usize,
    /// The time by the GPU's clock; for steps on the host by the host's.
    pub time: Duration,
}

/// The stages of a query set: each needs two queries.
const STAGES_PER_SET: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;
/// The stages of a submission: a driver may reset the GPU when one takes seconds.
const STAGES_PER_SUBMISSION: usize = 64;

impl Program {
    /// Runs the plan and times its stages: consecutive steps of one scope. On a GPU each stage is a compute pass between two
    /// timestamps. Only steps on the host wait for the GPU.
    ///
    /// # Errors
    /// Those of [`Program::run`]; [`GpuError::NoTimestamps`] on a GPU without timestamps, and in a browser, which has no
    /// clock, for steps on the host.
    pub async fn profile(&self, device: &Device) -> Result<Vec<StageTime>, GpuError> {
        let mut stages = Vec::new();
        let mut times = Vec::new();
        let mut first = 0;
        for run in self.plan().steps().chunk_by(|a, b| a.scope == b.scope && a.is_contiguous_with(b)) {
            if let Some(step) = run.first().filter(|step| step.before.is_some()) {
                stages.push((first..first, &run[..1]));
                let scope = Scope { stage: Stage::LoadExperts, ..step.scope };
                times.push(StageTime { scope, dispatches: 0, time: Duration::ZERO });
            }
            stages.push((first..first + run.len(), run));
            times.push(StageTime { scope: run[0].scope, dispatches: run.len(), time: Duration::ZERO });
            first += run.len();
        }
        match (&self.gpu, device.gpu()) {
            (Some(program), Some(gpu)) => self.time_gpu(device, (program, gpu), &stages, &mut times).await?,
            _ => {
                for ((range, steps), timed) in stages.iter().zip(&mut times) {
                    let start = clock(device)?;
                    match action(range, steps) {
                        Some(action) => action.run(device).await?,
                        None => steps.iter().try_for_each(cpu_kernel::run)?,
                    }
                    timed.time = start.elapsed();
                }
            }
        }
        Ok(times)
    }

    async fn time_gpu(
        &self,
        device: &Device,
        (program, gpu): (&GpuProgram, &Gpu),
        stages: &[(Range<usize>, &[Step])],
        times: &mut [StageTime],
    ) -> Result<(), GpuError> {
        if !device.caps().timestamps {
            return Err(GpuError::NoTimestamps { device: device.name().to_owned() });
        }
        let on_host = |range: &Range<usize>, steps: &[Step]| range.is_empty() || steps.iter().any(|step| step.on_host);
        let on_gpu = stages.iter().filter(|(range, steps)| !on_host(range, steps)).count();
        let context = &gpu.context;
        let timers = Timers::new(device, context, on_gpu).await?;
        let send = |encoder: wgpu::CommandEncoder| {
            context.call("a submission", || context.submit(Some(encoder.finish()))).map(|_| ())
        };
        let encoder = || context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let (mut encoding, mut timed, mut on_gpu) = (encoder(), 0, Vec::with_capacity(timers.stages));
        for (i, (range, steps)) in stages.iter().enumerate() {
            if on_host(range, steps) {
                send(std::mem::replace(&mut encoding, encoder()))?;
                // Work that was submitted before is not part of the stage.
                context.wait().await?;
                let start = clock(device)?;
                match (action(range, steps), &self.host) {
                    (Some(action), _) => action.run(device).await?,
                    (None, Some(host)) => host.run(device, steps).await?,
                    (None, None) => {}
                }
                context.wait().await?;
                times[i].time = start.elapsed();
                continue;
            }
            let pass = wgpu::ComputePassDescriptor { label: None, timestamp_writes: timers.writes(timed) };
            program.encode(&mut encoding.begin_compute_pass(&pass), range.clone());
            on_gpu.push(i);
            timed += 1;
            if timed % STAGES_PER_SUBMISSION == 0 {
                send(std::mem::replace(&mut encoding, encoder()))?;
            }
        }
        timers.resolve(&mut encoding)?;
        send(encoding)?;
        context.check()?;
        for (i, time) in on_gpu.into_iter().zip(timers.read(device, context).await?) {
            times[i].time = time;
        }
        Ok(())
    }
}

/// Returns the host's action of a stage that has no steps.
fn action<'a>(range: &Range<usize>, steps: &'a [Step]) -> Option<&'a dyn HostAction> {
    steps.first().filter(|_| range.is_empty())?.before.as_deref()
}

/// A pair of timestamps per stage.
struct Timers {
    stages: usize,
    sets: Vec<wgpu::QuerySet>,
    resolved: Buffer<[u32; 2]>,
}

impl Timers {
    async fn new(device: &Device, context: &Context, stages: usize) -> Result<Self, GpuError> {
        let set = |first: usize| {
            context.device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("stages"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * STAGES_PER_SET.min(stages - first) as u32,
            })
        };
        let sets = context.call("a query set", || (0..stages).step_by(STAGES_PER_SET).map(set).collect())?;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = device.alloc_unbound(context, "timestamps", 2 * stages as u64, usage).await?;
        Ok(Self { stages, sets, resolved })
    }

    /// Returns where the pass of a stage writes its timestamps.
    fn writes(&self, stage: usize) -> Option<wgpu::ComputePassTimestampWrites<'_>> {
        let first = 2 * (stage % STAGES_PER_SET) as u32;
        self.sets.get(stage / STAGES_PER_SET).map(|query_set| wgpu::ComputePassTimestampWrites {
            query_set,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        })
    }

    /// Copies the timestamps of all sets to the buffer.
    fn resolve(&self, encoder: &mut wgpu::CommandEncoder) -> Result<(), GpuError> {
        let resolved = self.resolved.raw.on_gpu()?;
        for (i, set) in self.sets.iter().enumerate() {
            let first = i * STAGES_PER_SET;
            let queries = 2 * STAGES_PER_SET.min(self.stages - first) as u32;
            encoder.resolve_query_set(set, 0..queries, resolved, 2 * first as u64 * u64::from(wgpu::QUERY_SIZE));
        }
        Ok(())
    }

    /// Reads the time of each stage.
    async fn read(&self, device: &Device, context: &Context) -> Result<Vec<Duration>, GpuError> {
        let len = 2 * self.stages as u64;
        let readback = Readback::new::<[u32; 2]>(device, len, 1).await?;
        let stamps = readback.read(device, &self.resolved, len).await?;
        let nanoseconds = f64::from(context.queue.get_timestamp_period());
        let ticks = |[low, high]: [u32; 2]| u64::from(low) | u64::from(high) << 32;
        let time = |pair: &[[u32; 2]]| {
            // Zero if the clock has wrapped around.
            let ticks = ticks(pair[1]).saturating_sub(ticks(pair[0]));
            Duration::from_nanos((ticks as f64 * nanoseconds) as u64)
        };
        Ok(stamps.chunks_exact(2).map(time).collect())
    }
}

/// Returns the time by the host's clock, which a browser does not have.
fn clock(device: &Device) -> Result<Instant, GpuError> {
    if cfg!(target_arch = "wasm32") {
        return Err(GpuError::NoTimestamps { device: device.name().to_owned() });
    }
    Ok(Instant::now())
}
