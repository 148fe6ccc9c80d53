//! A plan made ready for a device, and its running: one compute pass on a GPU, or the twins one after the other.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, PoisonError, RwLockReadGuard, RwLockWriteGuard},
};

use super::{
    Access, Device, GpuError, HostSlot, Plan, RawBuffer, Step,
    buffer::{Identity, Storage},
    driver::Gpu,
    pipeline::Pipeline,
};

/// A plan with everything that a device needs to run it. Running it creates no buffer, bind group or pipeline.
#[derive(Debug)]
pub struct Program {
    device: Identity,
    plan: Plan,
    gpu: Option<GpuProgram>,
}

#[derive(Debug)]
struct GpuProgram {
    params: Option<wgpu::Buffer>,
    /// By the pipeline's address and buffers: a plan that differs from the last only in parameters makes none.
    bind_groups: HashMap<(usize, Vec<u64>), wgpu::BindGroup>,
    steps: Vec<Encoded>,
}

#[derive(Debug)]
struct Encoded {
    pipeline: Arc<Pipeline>,
    bind_group: wgpu::BindGroup,
    params_offset: u32,
    workgroups: [u32; 3],
}

impl Program {
    /// A program that does nothing yet.
    pub fn new(device: &Device) -> Self {
        let gpu = device.gpu().map(|_| GpuProgram { params: None, bind_groups: HashMap::new(), steps: Vec::new() });
        Self { device: device.identity().clone(), plan: Plan::default(), gpu }
    }

    /// The plan it runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes `plan` in place of the one before, reusing bind groups and the parameter buffer.
    ///
    /// # Errors
    /// [`GpuError::Shader`] for a kernel that does not compile, [`GpuError::GridTooLarge`], [`GpuError::OutOfMemory`],
    /// [`GpuError::Lost`]; [`GpuError::OutOfRange`] for a buffer of another device, [`GpuError::OtherDevice`].
    pub async fn prepare(&mut self, device: &Device, plan: Plan) -> Result<(), GpuError> {
        self.is_of(device)?;
        let mut buffers = plan.steps.iter().flat_map(|step| step.buffers.iter().flatten());
        if let Some(buffer) = buffers.find(|buffer| buffer.identity != self.device) {
            return Err(foreign(buffer));
        }
        if let (Some(program), Some(gpu)) = (&mut self.gpu, device.gpu()) {
            // A program that failed to be prepared must not run in part.
            program.steps.clear();
            program.prepare(gpu, device.caps(), &plan).await?;
        }
        self.plan = plan;
        Ok(())
    }

    /// Runs the plan. On a GPU this only submits: reading a result waits.
    ///
    /// # Errors
    /// [`GpuError::Lost`], or a fault left by an earlier submission; [`GpuError::OtherDevice`].
    pub fn run(&self, device: &Device) -> Result<(), GpuError> {
        self.run_steps(device, 0..self.plan.steps.len())
    }

    fn is_of(&self, device: &Device) -> Result<(), GpuError> {
        if *device.identity() == self.device { Ok(()) } else { Err(GpuError::OtherDevice) }
    }

    /// Runs some of the plan's steps; those that it does not have are left out.
    ///
    /// # Errors
    /// Those of [`Program::run`].
    pub fn run_steps(&self, device: &Device, steps: Range<usize>) -> Result<(), GpuError> {
        self.is_of(device)?;
        match (&self.gpu, device.gpu()) {
            (Some(program), Some(gpu)) => program.submit(gpu, program.steps.get(steps).unwrap_or_default()),
            _ => self.plan.steps.get(steps).unwrap_or_default().iter().try_for_each(run_twin),
        }
    }
}

impl GpuProgram {
    async fn prepare(&mut self, gpu: &Gpu, caps: &super::Caps, plan: &Plan) -> Result<(), GpuError> {
        let stride = u64::from(caps.uniform_alignment.max(16));
        let slots: Vec<u64> =
            plan.steps.iter().map(|s| (s.op.params().len() as u64).div_ceil(stride) * stride).collect();
        let bytes: u64 = slots.iter().sum();
        let params = match self.params.take().filter(|buffer| buffer.size() >= bytes) {
            Some(buffer) => buffer,
            None => {
                self.bind_groups.clear();
                let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
                gpu.buffer("parameters", bytes.max(stride), usage).await?
            }
        };
        let mut contents = Vec::with_capacity(bytes as usize);
        let mut steps = Vec::with_capacity(plan.steps.len());
        for (step, slot) in plan.steps.iter().zip(slots) {
            let pipeline = gpu.pipelines.get(&gpu.device, &*step.op).await.map_err(|error| gpu.blame(error))?;
            let bind_group = self.bind_group(gpu, &params, &pipeline, step)?;
            let (grid, kernel) = (step.op.grid(), step.op.kernel());
            let workgroups = grid.workgroups(caps.max_workgroups_per_dimension).ok_or(GpuError::GridTooLarge {
                kernel,
                x: grid.x,
                y: grid.y,
            })?;
            let params_offset = contents.len() as u32;
            contents.extend_from_slice(step.op.params());
            contents.resize(params_offset as usize + slot as usize, 0u8);
            steps.push(Encoded { pipeline, bind_group, params_offset, workgroups });
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
                size: std::num::NonZeroU64::new(step.op.params().len() as u64),
            }),
        }];
        for (buffer, binding) in step.buffers.iter().flatten().zip(1..) {
            let Storage::Gpu(storage) = &buffer.storage else { return Err(foreign(buffer)) };
            entries.push(wgpu::BindGroupEntry { binding, resource: storage.as_entire_binding() });
        }
        let bind_group = gpu.now(step.op.kernel(), || {
            gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(step.op.kernel()),
                layout: &pipeline.layout,
                entries: &entries,
            })
        })?;
        self.bind_groups.insert(key, bind_group.clone());
        Ok(bind_group)
    }

    fn submit(&self, gpu: &Gpu, steps: &[Encoded]) -> Result<(), GpuError> {
        gpu.now("a submission", || {
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            {
                let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
                for step in steps {
                    pass.set_pipeline(&step.pipeline.compute);
                    pass.set_bind_group(0, &step.bind_group, &[step.params_offset]);
                    let [x, y, z] = step.workgroups;
                    pass.dispatch_workgroups(x, y, z);
                }
            }
            gpu.queue.submit([encoder.finish()]);
        })?;
        gpu.check()
    }
}

fn foreign(buffer: &RawBuffer) -> GpuError {
    GpuError::OutOfRange { what: "a binding", buffer: buffer.label.clone() }
}

enum Guard<'a> {
    Absent,
    Read(RwLockReadGuard<'a, Vec<u32>>),
    Write(RwLockWriteGuard<'a, Vec<u32>>),
}

/// Runs a step's twin on host memory. The recorder has seen to it that no buffer is written and bound twice.
fn run_twin(step: &Step) -> Result<(), GpuError> {
    let mut guards = Vec::with_capacity(step.buffers.len());
    for (buffer, binding) in step.buffers.iter().zip(step.op.bindings()) {
        guards.push(match buffer {
            None => Guard::Absent,
            Some(buffer) => match (&buffer.storage, binding.access) {
                (Storage::Host(memory), Access::Read) => {
                    Guard::Read(memory.read().unwrap_or_else(PoisonError::into_inner))
                }
                (Storage::Host(memory), Access::Write) => {
                    Guard::Write(memory.write().unwrap_or_else(PoisonError::into_inner))
                }
                (Storage::Gpu(_), _) => return Err(foreign(buffer)),
            },
        });
    }
    let slots = guards
        .iter_mut()
        .map(|guard| match guard {
            Guard::Absent => HostSlot::Absent,
            Guard::Read(words) => HostSlot::Read(words),
            Guard::Write(words) => HostSlot::Write(words),
        })
        .collect();
    step.op.run_cpu(slots);
    Ok(())
}
