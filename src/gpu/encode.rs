//! A plan encoded for a GPU: pipelines, bind groups, parameters and grids.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex},
};

use super::{
    Caps, GpuError, Plan, Step, backend::Gpu, context::lock, pipeline::Pipeline, source::FIRST_WORKGROUP_BYTES,
    submissions::split,
};

/// A GPU's objects for a plan.
#[derive(Debug)]
pub(super) struct GpuProgram {
    group: Arc<ParamGroup>,
    /// Its number in the group.
    number: u64,
    /// One per step; `None` for a step on the host.
    steps: Vec<Option<Encoded>>,
}

/// The parameters of some programs: as they share a buffer, they share bind groups too.
#[derive(Debug)]
pub(super) struct ParamGroup {
    programs: u64,
    params: Mutex<Option<Arc<Params>>>,
}

/// A buffer with a range for the parameters of each program of a group.
#[derive(Debug)]
struct Params {
    buffer: wgpu::Buffer,
    /// The bytes of a range.
    bytes: u64,
    /// By pipeline (its address) and buffers: plans that differ only in parameters share them.
    bind_groups: Mutex<HashMap<(usize, Vec<u64>), wgpu::BindGroup>>,
}

impl ParamGroup {
    /// Returns a group of so many programs.
    pub(super) fn new(programs: usize) -> Arc<Self> {
        Arc::new(Self { programs: programs as u64, params: Mutex::default() })
    }

    /// Returns parameters with at least `bytes` for each program. If there are larger ones now, the other programs keep theirs
    /// until they are prepared again.
    async fn params(&self, gpu: &Gpu, bytes: u64, spare: u64) -> Result<Arc<Params>, GpuError> {
        let params = lock(&self.params).clone();
        if let Some(params) = params.filter(|params| params.bytes >= bytes) {
            return Ok(params);
        }
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        // With room to spare, so that a larger plan of the same model creates no buffer.
        let bytes = 2 * bytes + spare;
        let buffer = gpu.context.buffer("parameters", self.programs * bytes, usage).await?;
        let params = Arc::new(Params { buffer, bytes, bind_groups: Mutex::default() });
        *lock(&self.params) = Some(Arc::clone(&params));
        Ok(params)
    }
}

impl Params {
    /// Returns the bind group of a step.
    fn bind_group(&self, gpu: &Gpu, pipeline: &Arc<Pipeline>, step: &Step) -> Result<wgpu::BindGroup, GpuError> {
        let key = (Arc::as_ptr(pipeline).addr(), step.buffers.iter().flatten().map(|b| b.id).collect());
        if let Some(bind_group) = lock(&self.bind_groups).get(&key) {
            return Ok(bind_group.clone());
        }
        let mut entries = vec![wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &self.buffer,
                offset: 0,
                size: std::num::NonZeroU64::new((step.op.params().len() + FIRST_WORKGROUP_BYTES) as u64),
            }),
        }];
        for (buffer, binding) in step.buffers.iter().flatten().zip(1..) {
            entries.push(wgpu::BindGroupEntry { binding, resource: buffer.on_gpu()?.as_entire_binding() });
        }
        let bind_group = gpu.context.call(step.op.kernel(), || {
            gpu.context.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(step.op.kernel()),
                layout: &pipeline.layout,
                entries: &entries,
            })
        })?;
        gpu.context.counters.bind_groups.add(1);
        lock(&self.bind_groups).insert(key, bind_group.clone());
        Ok(bind_group)
    }
}

#[derive(Debug)]
struct Encoded {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    parts: Vec<EncodedPart>,
}

#[derive(Debug)]
struct EncodedPart {
    params_offset: u32,
    grid: EncodedGrid,
    starts_submission: bool,
}

#[derive(Debug)]
enum EncodedGrid {
    Direct([u32; 3]),
    /// Three words at a byte offset of a buffer.
    Indirect(wgpu::Buffer, u64),
}

/// The maximum of additional parameter slots that a plan needs when it is split into 64 submissions.
const EXTRA_SLOTS: u64 = 128;

/// Compiles the pipelines of `plans` that are missing.
pub(super) async fn compile(gpu: &Gpu, plans: &[Plan], progress: impl FnMut(usize, usize)) -> Result<(), GpuError> {
    let steps = plans.iter().flat_map(|plan| &plan.steps);
    let ops = steps.filter(|step| !step.on_host).map(|step| &*step.op);
    gpu.pipelines.compile(&gpu.context, ops, progress).await.map_err(|error| gpu.context.prefer_loss(error))?;
    // If all were compiled before, nothing has noticed the loss of the device.
    gpu.context.check()
}

impl GpuProgram {
    /// Returns a program of a group that does nothing yet.
    pub(super) fn new(group: &Arc<ParamGroup>, number: usize) -> Self {
        Self { group: Arc::clone(group), number: number as u64, steps: Vec::new() }
    }

    /// Replaces the plan, to be sent in about `submissions` submissions.
    pub(super) async fn prepare(
        &mut self,
        gpu: &Gpu,
        caps: &Caps,
        plan: &Plan,
        submissions: usize,
    ) -> Result<(), GpuError> {
        self.steps.clear();
        compile(gpu, std::slice::from_ref(plan), |_, _| ()).await?;
        let parts_of_steps = split(plan, submissions);
        let stride = u64::from(caps.uniform_alignment.max(16));
        let slot = |step: &Step| ((step.op.params().len() + FIRST_WORKGROUP_BYTES) as u64).div_ceil(stride) * stride;
        let bytes: u64 =
            plan.steps.iter().zip(&parts_of_steps).map(|(step, parts)| parts.len() as u64 * slot(step)).sum();
        let most = plan.steps.iter().map(slot).max().unwrap_or(stride);
        let params = self.group.params(gpu, bytes, EXTRA_SLOTS * most).await?;
        let first = self.number * params.bytes;
        let mut contents = Vec::with_capacity(bytes as usize);
        let mut steps = Vec::with_capacity(plan.steps.len());
        for (step, parts) in plan.steps.iter().zip(&parts_of_steps) {
            if step.on_host {
                steps.push(None);
                continue;
            }
            let pipeline = gpu.pipelines.get(&gpu.context, &*step.op).await;
            let pipeline = pipeline.map_err(|error| gpu.context.prefer_loss(error))?;
            let bind_group = params.bind_group(gpu, &pipeline, step)?;
            let grid = step.op.grid();
            // A split dispatch uses the kernel's own grid, which contains the indirect one.
            let args = step.args.as_ref().filter(|_| parts.len() == 1);
            let mut encoded = Vec::with_capacity(parts.len());
            for part in parts {
                let workgroups = part
                    .grid
                    .workgroups(caps.max_workgroups_per_dimension)
                    .ok_or_else(|| GpuError::GridTooLarge { kernel: step.op.kernel(), x: grid.x, y: grid.y })?;
                let grid = match args {
                    Some(args) => EncodedGrid::Indirect(args.buffer.on_gpu()?.clone(), args.offset),
                    None => EncodedGrid::Direct(workgroups),
                };
                let offset = contents.len();
                contents.extend_from_slice(step.op.params());
                contents.extend_from_slice(bytemuck::bytes_of(&part.first));
                contents.resize(offset + slot(step) as usize, 0u8);
                let params_offset = (first + offset as u64) as u32;
                encoded.push(EncodedPart { params_offset, grid, starts_submission: part.starts_submission });
            }
            steps.push(Some(Encoded { pipeline, bind_group, parts: encoded }));
        }
        gpu.context.write(&params.buffer, first, &contents)?;
        self.steps = steps;
        gpu.context.check()
    }

    /// Submits some of the steps. Each submission has one compute pass.
    pub(super) fn submit(&self, gpu: &Gpu, steps: Range<usize>) -> Result<(), GpuError> {
        let context = &gpu.context;
        let parts: Vec<_> = self.parts(steps).collect();
        for submission in parts.chunk_by(|_, (_, next)| !next.starts_submission) {
            context.call("a submission", || {
                let mut encoder = context.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                submission.iter().for_each(|part| dispatch(&mut pass, part));
                drop(pass);
                context.submit(Some(encoder.finish()));
            })?;
        }
        context.check()
    }

    /// Appends some of the steps to a pass, without those on the host.
    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, steps: Range<usize>) {
        self.parts(steps).for_each(|part| dispatch(pass, &part));
    }

    fn parts(&self, steps: Range<usize>) -> impl Iterator<Item = (&Encoded, &EncodedPart)> {
        let steps = self.steps.get(steps).unwrap_or_default().iter().flatten();
        steps.flat_map(|step| step.parts.iter().map(move |part| (step, part)))
    }
}

fn dispatch(pass: &mut wgpu::ComputePass<'_>, (step, part): &(&Encoded, &EncodedPart)) {
    pass.set_pipeline(&step.pipeline.compute);
    pass.set_bind_group(0, &step.bind_group, &[part.params_offset]);
    match &part.grid {
        EncodedGrid::Direct([x, y, z]) => pass.dispatch_workgroups(*x, *y, *z),
        EncodedGrid::Indirect(args, offset) => pass.dispatch_workgroups_indirect(args, *offset),
    }
}
