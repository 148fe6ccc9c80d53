//! A plan made ready for a device, and its running: compute passes on a GPU, or the CPU kernels one after the other.

use std::{mem, ops::Range};

use super::{
    Device, GpuError, Plan, Step, buffer::Identity, cpu_kernel, cut::cut, encode::GpuProgram, host_steps::HostSteps,
};

/// A plan with everything that a device needs to run it. Running it creates no buffer, bind group or pipeline.
#[derive(Debug)]
pub struct Program {
    device: Identity,
    plan: Plan,
    /// See [`Program::cut`].
    parts: usize,
    pub(super) gpu: Option<GpuProgram>,
    /// What steps on the host need, where there are some beside a GPU's.
    pub(super) host: Option<HostSteps>,
}

impl Program {
    /// A program that does nothing yet.
    pub fn new(device: &Device) -> Self {
        let gpu = device.gpu().map(|_| GpuProgram::default());
        Self { device: device.identity().clone(), plan: Plan::default(), parts: 1, gpu, host: None }
    }

    /// The plan it runs.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes `plan` in place of the one before, reusing bind groups and the parameter buffer.
    ///
    /// # Errors
    /// [`GpuError::Shader`] for a kernel that does not compile, [`GpuError::GridTooLarge`], [`GpuError::OutOfMemory`],
    /// [`GpuError::Lost`]; [`GpuError::OutOfRange`] for a buffer of another device, [`GpuError::OtherDevice`]. The program
    /// then does nothing.
    pub async fn prepare(&mut self, device: &Device, plan: Plan) -> Result<(), GpuError> {
        self.is_of(device)?;
        // A program that failed to be prepared must not run in part.
        (self.plan, self.host) = (Plan::default(), None);
        let mut buffers = plan.steps.iter().flat_map(|step| step.buffers.iter().flatten());
        if let Some(buffer) = buffers.find(|buffer| buffer.identity != self.device) {
            return Err(buffer.foreign());
        }
        device.pending().await;
        if let (Some(program), Some(gpu)) = (&mut self.gpu, device.gpu()) {
            program.prepare(gpu, device.caps(), &plan, self.parts).await?;
            self.host = HostSteps::new(device, gpu, &plan).await?;
        }
        self.plan = plan;
        Ok(())
    }

    /// True when steps run on the host beside a GPU's ([`Recorder::on_host`](super::Recorder::on_host)), or the host does
    /// something between steps: [`Program::submit`] is then refused.
    pub fn has_host_steps(&self) -> bool {
        self.host.is_some() || self.plan.steps.iter().any(|step| step.before.is_some())
    }

    /// Has this plan, and those that it is prepared for later, sent to a GPU in about `parts` submissions of as much work
    /// each, `usize::MAX` being as many as there can be: a driver may end one that takes seconds. None does more than its
    /// share: a dispatch of more is sent in pieces of its grid, down to a workgroup or to a 64th.
    ///
    /// # Errors
    /// Those of [`Program::prepare`]. The program then does nothing.
    pub async fn cut(&mut self, device: &Device, parts: usize) -> Result<(), GpuError> {
        self.is_of(device)?;
        if self.parts == parts.max(1) {
            return Ok(());
        }
        self.parts = parts.max(1);
        let (plan, host) = (mem::take(&mut self.plan), self.host.take());
        device.pending().await;
        if let (Some(program), Some(gpu)) = (&mut self.gpu, device.gpu()) {
            program.prepare(gpu, device.caps(), &plan, self.parts).await?;
        }
        (self.plan, self.host) = (plan, host);
        Ok(())
    }

    /// What [`Program::cut`] asked for.
    pub fn parts(&self) -> usize {
        self.parts
    }

    /// The share of the plan's work, as it is estimated, that each submission has on a GPU; steps on the host have none.
    pub fn shares(&self) -> Vec<f64> {
        let mut shares: Vec<f64> = Vec::new();
        for piece in cut(&self.plan, self.parts).into_iter().flatten() {
            match shares.last_mut() {
                Some(share) if !piece.begins => *share += piece.work,
                _ => shares.push(piece.work),
            }
        }
        let all: f64 = shares.iter().sum();
        shares.into_iter().map(|share| share / all).collect()
    }

    /// Runs the plan. Steps of a GPU are only submitted: reading a result waits, and so does a step on the host.
    ///
    /// # Errors
    /// [`GpuError::Lost`], or a fault left by an earlier submission; [`GpuError::OtherDevice`].
    pub async fn run(&self, device: &Device) -> Result<(), GpuError> {
        self.run_steps(device, 0..self.plan.steps.len()).await
    }

    /// Runs some of the plan's steps; a range that the plan does not have is empty.
    ///
    /// # Errors
    /// Those of [`Program::run`].
    pub async fn run_steps(&self, device: &Device, steps: Range<usize>) -> Result<(), GpuError> {
        self.is_of(device)?;
        let mut first = steps.start;
        for run in self.steps(steps).chunk_by(Step::goes_on) {
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
        self.is_of(device)?;
        let waits = |step: &Step| step.before.is_some() || (step.on_host && device.gpu().is_some());
        if self.steps(steps.clone()).iter().any(waits) {
            return Err(GpuError::HostSteps);
        }
        self.send(device, steps)
    }

    /// Sends steps to a GPU, or has the CPU kernels run them.
    fn send(&self, device: &Device, steps: Range<usize>) -> Result<(), GpuError> {
        match (&self.gpu, device.gpu()) {
            (Some(program), Some(gpu)) => program.submit(gpu, steps),
            _ => self.steps(steps).iter().try_for_each(cpu_kernel::run),
        }
    }

    pub(super) fn is_of(&self, device: &Device) -> Result<(), GpuError> {
        if *device.identity() == self.device { Ok(()) } else { Err(GpuError::OtherDevice) }
    }

    /// The plan's steps in a range; none for one that the plan does not have.
    fn steps(&self, range: Range<usize>) -> &[Step] {
        self.plan.steps.get(range).unwrap_or_default()
    }
}
