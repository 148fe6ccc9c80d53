//! A plan encoded for a GPU: pipelines, bind groups, parameters and grids.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::{
    Caps, GpuError, Plan, Step, backend::Gpu, pipeline::Pipeline, source::FIRST_WORKGROUP_BYTES, submissions::split,
};

/// A GPU's objects for a plan.
#[derive(Debug, Default)]
pub(super) struct GpuProgram {
    params: Option<wgpu::Buffer>,
    /// By pipeline (its address) and buffers: a plan that differs from the last only in parameters needs no new ones.
    bind_groups: HashMap<(usize, Vec<u64>), wgpu::BindGroup>,
    /// One per step; `None` for a step on the host.
    steps: Vec<Option<Encoded>>,
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

/// Compiles the pipelines of `plan` that are missing.
pub(super) async fn compile(gpu: &Gpu, plan: &Plan) -> Result<(), GpuError> {
    let ops = plan.steps.iter().filter(|step| !step.on_host).map(|step| &*step.op);
    gpu.pipelines.compile(&gpu.context, ops).await.map_err(|error| gpu.context.prefer_loss(error))?;
    // If all were compiled before, nothing has noticed the loss of the device.
    gpu.context.check()
}

impl GpuProgram {
    /// Replaces the plan, to be sent in about `submissions` submissions.
    pub(super) async fn prepare(
        &mut self,
        gpu: &Gpu,
        caps: &Caps,
        plan: &Plan,
        submissions: usize,
    ) -> Result<(), GpuError> {
        self.steps.clear();
        compile(gpu, plan).await?;
        let parts_of_steps = split(plan, submissions);
        let stride = u64::from(caps.uniform_alignment.max(16));
        let slot = |step: &Step| ((step.op.params().len() + FIRST_WORKGROUP_BYTES) as u64).div_ceil(stride) * stride;
        let bytes: u64 =
            plan.steps.iter().zip(&parts_of_steps).map(|(step, parts)| parts.len() as u64 * slot(step)).sum();
        let params = match self.params.take().filter(|buffer| buffer.size() >= bytes) {
            Some(buffer) => buffer,
            None => {
                self.bind_groups.clear();
                let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
                // With room to spare, so that a larger plan of the same model creates no buffer.
                let most = plan.steps.iter().map(slot).max().unwrap_or(stride);
                gpu.context.buffer("parameters", 2 * bytes + EXTRA_SLOTS * most, usage).await?
            }
        };
        let mut contents = Vec::with_capacity(bytes as usize);
        let mut steps = Vec::with_capacity(plan.steps.len());
        for (step, parts) in plan.steps.iter().zip(&parts_of_steps) {
            if step.on_host {
                steps.push(None);
                continue;
            }
            let pipeline = gpu.pipelines.get(&gpu.context, &*step.op).await;
            let pipeline = pipeline.map_err(|error| gpu.context.prefer_loss(error))?;
            let bind_group = self.bind_group(gpu, &params, &pipeline, step)?;
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
                let params_offset = contents.len() as u32;
                contents.extend_from_slice(step.op.params());
                contents.extend_from_slice(bytemuck::bytes_of(&part.first));
                contents.resize(params_offset as usize + slot(step) as usize, 0u8);
                encoded.push(EncodedPart { params_offset, grid, starts_submission: part.starts_submission });
            }
            steps.push(Some(Encoded { pipeline, bind_group, parts: encoded }));
        }
        gpu.context.write(&params, 0, &contents)?;
        self.params = Some(params);
        self.steps = steps;
        gpu.context.check()
    }

    fn bind_group(
        &mut self,
        gpu: &Gpu,
        params: &wgpu::Buffer,
        pipeline: &Arc<Pipeline>,
        step: &Step,
    ) -> Result<wgpu::BindGroup, GpuError> {
        let key = (Arc::as_ptr(pipeline).addr(), step.buffers.iter().flatten().map(|b| b.id).collect());
        if let Some(bind_group) = self.bind_groups.get(&key) {
            return Ok(bind_group.clone());
        }
        let mut entries = vec![wgpu::BindGroupEntry {
            binding: 0,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: params,
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
        self.bind_groups.insert(key, bind_group.clone());
        Ok(bind_group)
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
