//! A plan prepared for a device, and its execution: compute passes on a GPU, or the CPU kernels.

use std::{mem, ops::Range, sync::Arc};

use super::{
    Device, GpuError, Plan, Step,
    buffer::Identity,
    cpu_kernel, encode,
    encode::{GpuProgram, ParamGroup},
    host_steps::HostSteps,
    submissions::split,
};

/// A plan with all objects that a device needs to run it. Running it creates no buffer, bind group or pipeline.
#[derive(Debug)]
pub struct Program {
    device: Identity,
    plan: Plan,
    /// See [`Program::split_submissions`].
    submissions: usize,
    pub(super) gpu: Option<GpuProgram>,
    /// The buffers for steps on the host, if a GPU's plan has any.
    pub(super) host: Option<HostSteps>,
}

impl Plan {
    /// Compiles the kernels that `device` has not compiled yet, so that no program waits for them: natively on several
    /// threads, while the caller's thread waits.
    ///
    /// # Errors
    /// [`GpuError::Shader`] for a kernel that does not compile, [`GpuError::Lost`].
    pub async fn compile(&self, device: &Device) -> Result<(), GpuError> {
        Self::compile_all(std::slice::from_ref(self), device, |_, _| ()).await
    }

    /// Compiles what [`compile`](Self::compile) does for several plans, in their order. Calls `progress` with the number of
    /// kernels compiled so far, and of all that were missing. In a browser each is awaited, so that the page goes on between
    /// them.
    ///
    /// # Errors
    /// Those of [`compile`](Self::compile).
    pub async fn compile_all(
        plans: &[Self],
        device: &Device,
        progress: impl FnMut(usize, usize),
    ) -> Result<(), GpuError> {
        match device.gpu() {
            Some(gpu) => encode::compile(gpu, plans, progress).await,
            None => Ok(()),
        }
    }
}

impl Program {
    /// Creates an empty program.
    pub fn new(device: &Device) -> Self {
        Self::in_group(device, &ParamGroup::new(1), 0)
    }

    /// Creates empty programs that share bind groups and a parameter buffer: for plans over the same buffers.
    pub(crate) fn group(device: &Device, programs: usize) -> Vec<Self> {
        let group = ParamGroup::new(programs);
        (0..programs).map(|number| Self::in_group(device, &group, number)).collect()
    }

    fn in_group(device: &Device, group: &Arc<ParamGroup>, number: usize) -> Self {
        let gpu = device.gpu().map(|_| GpuProgram::new(group, number));
        Self { device: device.identity().clone(), plan: Plan::default(), submissions: 1, gpu, host: None }
    }

    /// Returns its plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Replaces the plan. Reuses bind groups and the parameter buffer.
    ///
    /// # Errors
    /// [`GpuError::Shader`] for a kernel that does not compile, [`GpuError::GridTooLarge`], [`GpuError::OutOfMemory`],
    /// [`GpuError::Lost`]; [`GpuError::OutOfRange`] for a buffer of another device, [`GpuError::OtherDevice`]. The program
    /// is then empty.
    pub async fn prepare(&mut self, device: &Device, plan: Plan) -> Result<(), GpuError> {
        self.is_of(device)?;
        // If an error follows, the program must not run in part.
        (self.plan, self.host) = (Plan::default(), None);
        let mut buffers = plan.steps.iter().flat_map(|step| step.buffers.iter().flatten());
        if let Some(buffer) = buffers.find(|buffer| buffer.identity != self.device) {
            return Err(buffer.foreign());
        }
        device.pending().await;
        if let (Some(program), Some(gpu)) = (&mut self.gpu, device.gpu()) {
            program.prepare(gpu, device.caps(), &plan, self.submissions).await?;
            self.host = HostSteps::new(device, &gpu.context, &plan).await?;
        }
        self.plan = plan;
        Ok(())
    }

    /// Returns whether the host runs some steps of a GPU's plan ([`Recorder::on_host`](super::Recorder::on_host)) or acts
    /// between steps. [`Program::submit`] then fails.
    pub fn has_host_steps(&self) -> bool {
        self.host.is_some() || self.plan.steps.iter().any(|step| step.before.is_some())
    }

    /// Splits this plan, and all later ones, into about `count` submissions of equal cost (`usize::MAX`: as many as
    /// possible): a driver may reset a GPU when one takes seconds. No submission costs more than its share: a dispatch that
    /// does is split by its grid, down to one workgroup or a 64th of the grid.
    ///
    /// # Errors
    /// Those of [`Program::prepare`]. The program is then empty.
    pub async fn split_submissions(&mut self, device: &Device, count: usize) -> Result<(), GpuError> {
        self.is_of(device)?;
        if self.submissions == count.max(1) {
            return Ok(());
        }
        self.submissions = count.max(1);
        let (plan, host) = (mem::take(&mut self.plan), self.host.take());
        device.pending().await;
        if let (Some(program), Some(gpu)) = (&mut self.gpu, device.gpu()) {
            program.prepare(gpu, device.caps(), &plan, self.submissions).await?;
        }
        (self.plan, self.host) = (plan, host);
        Ok(())
    }

    /// Returns the number of submissions that [`Program::split_submissions`] has set.
    pub fn submissions(&self) -> usize {
        self.submissions
    }

    /// Returns the share of the plan's estimated cost that each submission has on a GPU. Steps on the host cost nothing.
    pub fn shares(&self) -> Vec<f64> {
        let mut shares: Vec<f64> = Vec::new();
        for part in split(&self.plan, self.submissions).into_iter().flatten() {
            match shares.last_mut() {
                Some(share) if !part.starts_submission => *share += part.cost,
                _ => shares.push(part.cost),
            }
        }
        let all: f64 = shares.iter().sum();
        shares.into_iter().map(|share| share / all).collect()
    }

    /// Runs the plan. On a GPU it is only submitted: reading a result waits, and so does a step on the host.
    ///
    /// # Errors
    /// [`GpuError::Lost`], or an error of an earlier submission; [`GpuError::OtherDevice`].
    pub async fn run(&self, device: &Device) -> Result<(), GpuError> {
        self.run_steps(device, 0..self.plan.steps.len()).await
    }

    /// Runs some of the plan's steps: none if `steps` is out of range.
    ///
    /// # Errors
    /// Those of [`Program::run`].
    pub async fn run_steps(&self, device: &Device, steps: Range<usize>) -> Result<(), GpuError> {
        self.is_of(device)?;
        let mut first = steps.start;
        for run in self.steps(steps).chunk_by(Step::is_contiguous_with) {
            let range = first..first + run.len();
            first = range.end;
            if let Some(action) = run.first().and_then(|step| step.before.as_ref()) {
                device.pending().await;
                action.run(device).await?;
            }
            match &self.host {
                Some(host) if run.iter().any(|step| step.on_host) => {
                    device.pending().await;
                    host.run(device, run).await?;
                }
                _ => self.send(device, range)?,
            }
        }
        Ok(())
    }

    /// Runs the plan without waiting for a GPU.
    ///
    /// # Errors
    /// Those of [`Program::run`], and [`GpuError::HostSteps`] if the host runs some steps.
    pub fn submit(&self, device: &Device) -> Result<(), GpuError> {
        self.submit_steps(device, 0..self.plan.steps.len())
    }

    /// Runs some of the plan's steps without waiting for a GPU.
    ///
    /// # Errors
    /// Those of [`Program::run`], and [`GpuError::HostSteps`] if the host runs some of them.
    pub fn submit_steps(&self, device: &Device, steps: Range<usize>) -> Result<(), GpuError> {
        self.is_of(device)?;
        let waits = |step: &Step| step.before.is_some() || (step.on_host && device.gpu().is_some());
        if self.steps(steps.clone()).iter().any(waits) {
            return Err(GpuError::HostSteps);
        }
        self.send(device, steps)
    }

    /// Submits steps to a GPU, or runs their CPU kernels.
    fn send(&self, device: &Device, steps: Range<usize>) -> Result<(), GpuError> {
        match (&self.gpu, device.gpu()) {
            (Some(program), Some(gpu)) => program.submit(gpu, steps),
            _ => self.steps(steps).iter().try_for_each(cpu_kernel::run),
        }
    }

    /// Checks that the program was created for `device`.
    fn is_of(&self, device: &Device) -> Result<(), GpuError> {
        if *device.identity() == self.device { Ok(()) } else { Err(GpuError::OtherDevice) }
    }

    /// Returns some of the plan's steps: none if `range` is out of range.
    fn steps(&self, range: Range<usize>) -> &[Step] {
        self.plan.steps.get(range).unwrap_or_default()
    }
}
