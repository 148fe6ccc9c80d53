//! Turns: a step, from its plan to its news.

use std::{
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    pace::Moment,
    runner::{Runner, Work},
    schedule::Schedule,
    scheduler::{SequenceId, Step},
};
use crate::gpu::{Device, GpuError, Program};

/// Requests, held for moments only.
pub(super) type SharedSchedule = Mutex<Schedule>;

pub(super) fn lock(schedule: &SharedSchedule) -> MutexGuard<'_, Schedule> {
    schedule.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One who has the device, and the requests.
///
/// What [`Turn::run`] awaits is never dropped half done (see [`Drive`](super::drive::Drive)), so that what the device has is
/// what the schedule knows of. While it waits, sequences may be given up, go on and be shared, but nothing is planned.
pub(super) struct Turn<'a, S: Deref<Target = SharedSchedule>> {
    pub(super) schedule: S,
    pub(super) runner: &'a mut Runner,
}

impl<S: Deref<Target = SharedSchedule>> Turn<'_, S> {
    fn schedule(&self) -> MutexGuard<'_, Schedule> {
        lock(&self.schedule)
    }

    /// Sends the next step, or takes in the oldest that is under way. Gives whether there was anything to do.
    pub(super) async fn run(&mut self) -> bool {
        if self.runner.under_way() > usize::from(self.runner.options().run_ahead) {
            return self.land().await;
        }
        let Some(step) = self.plan() else { return self.land().await };
        if let Some(work) = self.ready(&step).await {
            let submitted = Moment::now();
            let sent = self.runner.submit(&step, &work).await;
            self.sent(&step, work, submitted, sent);
        }
        true
    }

    fn plan(&mut self) -> Option<Step> {
        let rows = {
            let options = self.runner.options();
            self.runner.pace.prompt_rows(options.prefill_rows, options.max_submit)
        };
        let mut schedule = self.schedule();
        schedule.scheduler.set_prefill_rows(rows);
        schedule.plan()
    }

    /// Makes ready what a step needs, and writes it; `None` when that failed.
    ///
    /// Nothing has been computed then. A failure may be one request's alone, as when its way to draw tokens is the first
    /// that needs some kernel, or memory: each request of the step is tried alone, and ends when it fails alone.
    async fn ready(&mut self, step: &Step) -> Option<Work> {
        let work = self.runner.work(step, &self.schedule().drawings);
        let ready = self.runner.prepare(step, &work).await.and_then(|()| self.runner.write(step, &work));
        match ready {
            Ok(()) => Some(work),
            Err(error) if error.is_loss() => {
                self.forget_device(error);
                None
            }
            Err(error) => {
                self.schedule().not_ready(step, &Arc::new(error));
                None
            }
        }
    }

    /// Takes in that a step was sent, or failed to be: some of it may have been computed, and tokens drawn, so that its
    /// requests end.
    fn sent(&mut self, step: &Step, work: Work, submitted: Moment, sent: Result<(), GpuError>) {
        match sent.and_then(|()| self.runner.take_off(step, work, submitted)) {
            Ok(()) => self.schedule().sent(step),
            Err(error) if error.is_loss() => self.forget_device(error),
            Err(error) => self.schedule().fail(step, &Arc::new(error)),
        }
    }

    /// Takes in the oldest step that is under way; gives whether there was one.
    pub(super) async fn land(&mut self) -> bool {
        match self.runner.land().await {
            Ok(None) => return false,
            Ok(Some(landed)) => self.schedule().landed(landed),
            // What was under way cannot be told from what is.
            Err(error) => self.forget_device(error),
        }
        true
    }

    fn forget_device(&mut self, error: GpuError) {
        self.runner.clear();
        self.schedule().forget_device(&error.into());
    }

    /// Computes the next step of one sequence, by programs that `run` runs. Gives whether there was one.
    pub(super) async fn run_by<E>(
        &mut self,
        id: SequenceId,
        run: &mut impl AsyncFnMut(&Device, &Program) -> Result<(), E>,
    ) -> Result<bool, E> {
        // When this is dropped, or `run` fails, some of the step may have been computed. That is why no other sequence is in
        // it; this one's request ends.
        let Some(step) = self.schedule().plan_alone(id) else { return Ok(false) };
        if let Some(work) = self.ready(&step).await {
            for program in self.runner.programs(&step, &work) {
                run(self.runner.device(), program).await?;
            }
            self.sent(&step, work, Moment::now(), Ok(()));
        }
        Ok(true)
    }
}
