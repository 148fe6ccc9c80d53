//! The run of one step: planned by the scheduler, computed by the executor.

use std::{
    ops::Deref,
    sync::{Arc, Mutex},
};

use super::{
    executor::{Executor, Moment, StepInput, StepPart, UnsampledStep},
    scheduler::{LogitRow, Scheduler, SequenceId, StepPlan},
    wakers::{NotifyingGuard, Wakers},
};
use crate::gpu::{Device, GpuError, Program};

/// The scheduler, and the wakers of those who wait for its events. Locked for moments only.
#[derive(Debug)]
pub(super) struct SharedScheduler {
    scheduler: Mutex<Scheduler>,
    pub(super) wakers: Arc<Wakers>,
}

impl SharedScheduler {
    pub(super) fn new(scheduler: Scheduler) -> Self {
        Self { scheduler: Mutex::new(scheduler), wakers: Arc::default() }
    }

    /// Locks the scheduler. When the lock is dropped, the sessions that got events are woken.
    pub(super) fn lock(&self) -> NotifyingGuard<'_> {
        NotifyingGuard::new(&self.scheduler, &self.wakers)
    }
}

/// The scheduler and the executor, for the time of a step.
///
/// What [`StepRunner::run`] awaits is never dropped half done (see [`SharedExecutor`](super::shared_executor::SharedExecutor)),
/// so that the scheduler and the device agree. Meanwhile requests may be submitted and cancelled, but no step is planned.
pub(super) struct StepRunner<'a, S: Deref<Target = SharedScheduler>> {
    pub(super) scheduler: S,
    pub(super) executor: &'a mut Executor,
}

impl<S: Deref<Target = SharedScheduler>> StepRunner<'_, S> {
    /// Submits the next step, or finishes the oldest in flight. Returns whether there was anything to do.
    pub(super) async fn run(&mut self) -> bool {
        if self.executor.has_unsampled() || !self.executor.may_submit() {
            return self.finish_step().await;
        }
        let Some(plan) = self.plan() else { return self.finish_step().await };
        if let Some(input) = self.prepare(&plan).await {
            let submitted = Moment::now();
            if plan.masks_later {
                let result = self.executor.submit(&plan, &input, StepPart::Forward).await;
                self.forward_submitted(plan, input, submitted, result);
            } else {
                let result = self.executor.submit(&plan, &input, StepPart::Whole).await;
                self.submitted(&plan, input, submitted, result);
            }
        }
        true
    }

    fn plan(&mut self) -> Option<StepPlan> {
        let rows = self.executor.prefill_rows();
        let mut scheduler = self.scheduler.lock();
        scheduler.set_prefill_rows(rows);
        scheduler.plan()
    }

    /// Prepares a step and writes its input; returns `None` on failure.
    ///
    /// Nothing has been computed then. The failure may concern one request alone, as when its path of sampling is the first to
    /// need a kernel or memory: each request of the step is then tried alone, and fails if it fails alone.
    async fn prepare(&mut self, plan: &StepPlan) -> Option<StepInput> {
        let input = {
            let scheduler = self.scheduler.lock();
            self.executor.input(plan, |row| scheduler.sampling_of(row))
        };
        let result = self.executor.prepare(plan, &input).await.and_then(|()| self.executor.write(plan, &input));
        match result {
            Ok(()) => Some(input),
            Err(error) if error.is_loss() => {
                self.forget_device(error);
                None
            }
            Err(error) => {
                self.scheduler.lock().preparation_failed(plan, &Arc::new(error));
                None
            }
        }
    }

    /// Takes in that a step was submitted, or failed to be: some of it may have been computed then, so that its requests fail.
    fn submitted(&mut self, plan: &StepPlan, input: StepInput, submitted: Moment, result: Result<(), GpuError>) {
        let result = result.and_then(|()| self.executor.start_readback(plan, input, submitted));
        self.commit(plan, result);
    }

    /// Takes in that the forward pass of a step was submitted, as [`Self::submitted`].
    fn forward_submitted(&mut self, plan: StepPlan, input: StepInput, submitted: Moment, result: Result<(), GpuError>) {
        let done = result.is_ok();
        self.commit(&plan, result);
        if done {
            self.executor.sample_later(plan, input, submitted);
        }
    }

    fn commit(&mut self, plan: &StepPlan, result: Result<(), GpuError>) {
        match result {
            // A plan is stale when another was made meanwhile, which only the owner of the executor does.
            Ok(()) => {
                let _ = self.scheduler.lock().commit(plan);
            }
            Err(error) if error.is_loss() => self.forget_device(error),
            Err(error) => self.scheduler.lock().fail_step(plan, &Arc::new(error)),
        }
    }

    /// Finishes the oldest step in flight, and submits the sampling that waits for it; returns whether there was one.
    pub(super) async fn finish_step(&mut self) -> bool {
        match self.executor.finish_step().await {
            Ok(None) if !self.executor.has_unsampled() => return false,
            Ok(None) => {}
            // An output is stale when the device was forgotten meanwhile, or nothing was sampled.
            Ok(Some(output)) => {
                let _ = self.scheduler.lock().finish_step(output);
            }
            // It is not known which steps in flight were computed.
            Err(error) => self.forget_device(error),
        }
        if let Some(step) = self.executor.take_unsampled() {
            let result = self.sample(step).await;
            // The step is committed: what it computed is not known.
            result.unwrap_or_else(|error| self.forget_device(error));
        }
        true
    }

    /// Samples the tokens of a step whose masks are known now. A request that is over keeps its last mask: its token is of no use.
    async fn sample(&mut self, step: UnsampledStep) -> Result<(), GpuError> {
        let masks: Vec<_> = {
            let scheduler = self.scheduler.lock();
            let mask_of = |row: &LogitRow| Some((row.slot, scheduler.sampling_of(row)?.mask?.to_vec()));
            step.plan.sampled().filter_map(mask_of).collect()
        };
        masks.iter().try_for_each(|(slot, mask)| self.executor.write_mask(*slot, mask))?;
        self.executor.sample(step).await
    }

    fn forget_device(&mut self, error: GpuError) {
        self.executor.clear();
        self.scheduler.lock().forget_device(&error.into());
    }

    /// Computes the next step of one sequence alone, by programs that `run` runs. Returns whether there was one.
    pub(super) async fn run_by<E>(
        &mut self,
        id: SequenceId,
        run: &mut impl AsyncFnMut(&Device, &Program) -> Result<(), E>,
    ) -> Result<bool, E> {
        // When this is dropped, or `run` fails, some of the step may have been computed: no other sequence is in it, and its own
        // request is cancelled.
        let Some(plan) = self.scheduler.lock().plan_alone(id) else { return Ok(false) };
        if let Some(input) = self.prepare(&plan).await {
            for program in self.executor.programs(&plan, &input) {
                run(self.executor.device(), program).await?;
            }
            self.submitted(&plan, input, Moment::now(), Ok(()));
        }
        Ok(true)
    }
}
