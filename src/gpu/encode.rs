//! A plan encoded for a GPU: pipelines, bind groups, parameters, grids, and their submission.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::{
    Caps, GpuError, Plan, Step,
    cut::cut,
    driver::{Gpu, Made},
    pipeline::Pipeline,
    source::FIRST_BYTES,
};

/// What a GPU needs for a plan.
#[derive(Debug, Default)]
pub(super) struct GpuProgram {
    params: Option<wgpu::Buffer>,
    /// By the pipeline's address and buffers: a plan that differs from the last only in parameters makes none.
    bind_groups: HashMap<(usize, Vec<u64>), wgpu::BindGroup>,
    /// One a step; `None` for those that run on the host.
    steps: Vec<Option<Encoded>>,
}

#[derive(Debug)]
struct Encoded {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    pieces: Vec<EncodedPiece>,
}

#[derive(Debug)]
struct EncodedPiece {
    params_offset: u32,
    grid: EncodedGrid,
    /// Whether a submission begins with it.
    begins: bool,
}

#[derive(Debug)]
enum EncodedGrid {
    Direct([u32; 3]),
    /// The three words that are at a byte of a buffer when the dispatch begins.
    Indirect(wgpu::Buffer, u64),
}

/// Slots for parameters that a plan needs more when it is cut for 64 submissions, at most.
const ROOM_FOR_PIECES: u64 = 128;

/// Compiles the pipelines of `plan` that there are none of yet.
pub(super) async fn compile(gpu: &Gpu, plan: &Plan) -> Result<(), GpuError> {
    let ops = plan.steps.iter().filter(|step| !step.on_host).map(|step| &*step.op);
    gpu.pipelines.compile(gpu, ops).await.map_err(|error| gpu.blame(error))?;
    // What was compiled before says nothing of a device that is lost.
    gpu.check()
}

impl GpuProgram {
    /// Takes `plan` in place of the one before, for so many submissions.
    pub(super) async fn prepare(&mut self, gpu: &Gpu, caps: &Caps, plan: &Plan, parts: usize) -> Result<(), GpuError> {
        self.steps.clear();
        compile(gpu, plan).await?;
        let cut = cut(plan, parts);
        let stride = u64::from(caps.uniform_alignment.max(16));
        let slot = |step: &Step| ((step.op.params().len() + FIRST_BYTES) as u64).div_ceil(stride) * stride;
        let bytes: u64 = plan.steps.iter().zip(&cut).map(|(step, pieces)| pieces.len() as u64 * slot(step)).sum();
        let params = match self.params.take().filter(|buffer| buffer.size() >= bytes) {
            Some(buffer) => buffer,
            None => {
                self.bind_groups.clear();
                let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
                // Plans of one model differ by less than that, so that a larger one later creates nothing.
                let most = plan.steps.iter().map(slot).max().unwrap_or(stride);
                gpu.buffer("parameters", 2 * bytes + ROOM_FOR_PIECES * most, usage).await?
            }
        };
        let mut contents = Vec::with_capacity(bytes as usize);
        let mut steps = Vec::with_capacity(plan.steps.len());
        for (step, pieces) in plan.steps.iter().zip(&cut) {
            if step.on_host {
                steps.push(None);
                continue;
            }
            let pipeline = gpu.pipelines.get(gpu, &*step.op).await.map_err(|error| gpu.blame(error))?;
            let bind_group = self.bind_group(gpu, &params, &pipeline, step)?;
            let grid = step.op.grid();
            // An indirect grid is no larger than this one; in pieces it is this one, which has more that does nothing.
            let args = step.args.as_ref().filter(|_| pieces.len() == 1);
            let mut encoded = Vec::with_capacity(pieces.len());
            for piece in pieces {
                let workgroups = piece
                    .grid
                    .workgroups(caps.max_workgroups_per_dimension)
                    .ok_or_else(|| GpuError::GridTooLarge { kernel: step.op.kernel(), x: grid.x, y: grid.y })?;
                let grid = match args {
                    Some(args) => EncodedGrid::Indirect(args.buffer.on_gpu()?.clone(), args.offset),
                    None => EncodedGrid::Direct(workgroups),
                };
                let params_offset = contents.len() as u32;
                contents.extend_from_slice(step.op.params());
                contents.extend_from_slice(bytemuck::bytes_of(&piece.first));
                contents.resize(params_offset as usize + slot(step) as usize, 0u8);
                encoded.push(EncodedPiece { params_offset, grid, begins: piece.begins });
            }
            steps.push(Some(Encoded { pipeline, bind_group, pieces: encoded }));
        }
        gpu.write(&params, 0, &contents)?;
        self.params = Some(params);
        self.steps = steps;
        gpu.check()
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
                size: std::num::NonZeroU64::new((step.op.params().len() + FIRST_BYTES) as u64),
            }),
        }];
        for (buffer, binding) in step.buffers.iter().flatten().zip(1..) {
            entries.push(wgpu::BindGroupEntry { binding, resource: buffer.on_gpu()?.as_entire_binding() });
        }
        let bind_group = gpu.now(step.op.kernel(), || {
            gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(step.op.kernel()),
                layout: &pipeline.layout,
                entries: &entries,
            })
        })?;
        Made::add(&gpu.made.bind_groups);
        self.bind_groups.insert(key, bind_group.clone());
        Ok(bind_group)
    }

    /// Submits some of the steps, in a compute pass for each part of them.
    pub(super) fn submit(&self, gpu: &Gpu, steps: Range<usize>) -> Result<(), GpuError> {
        let pieces: Vec<_> = self.pieces(steps).collect();
        for part in pieces.chunk_by(|_, (_, next)| !next.begins) {
            gpu.now("a submission", || {
                let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                part.iter().for_each(|piece| dispatch(&mut pass, piece));
                drop(pass);
                gpu.submit(Some(encoder.finish()));
            })?;
        }
        gpu.check()
    }

    /// Appends some of the steps to a pass, but for those that run on the host.
    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass<'_>, steps: Range<usize>) {
        self.pieces(steps).for_each(|piece| dispatch(pass, &piece));
    }

    fn pieces(&self, steps: Range<usize>) -> impl Iterator<Item = (&Encoded, &EncodedPiece)> {
        let steps = self.steps.get(steps).unwrap_or_default().iter().flatten();
        steps.flat_map(|step| step.pieces.iter().map(move |piece| (step, piece)))
    }
}

fn dispatch(pass: &mut wgpu::ComputePass<'_>, (step, piece): &(&Encoded, &EncodedPiece)) {
    pass.set_pipeline(&step.pipeline.compute);
    pass.set_bind_group(0, &step.bind_group, &[piece.params_offset]);
    match &piece.grid {
        EncodedGrid::Direct([x, y, z]) => pass.dispatch_workgroups(*x, *y, *z),
        EncodedGrid::Indirect(args, offset) => pass.dispatch_workgroups_indirect(args, *offset),
    }
}
