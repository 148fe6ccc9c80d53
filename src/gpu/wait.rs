//! Waiting for a queue, and giving one up that hangs.

use std::{
    any::Any,
    future::poll_fn,
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::Arc,
    task::{self, Poll},
    thread,
    time::Duration,
};

use futures_channel::oneshot;

use super::{
    GpuError,
    context::{Context, Loss},
    watchdog::StallTimer,
};

impl Context {
    /// Submits commands and has it counted when they are done; among calls whose errors are caught.
    pub(crate) fn submit(&self, commands: Option<wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        let submission = self.queue.submit(commands);
        // In a browser nobody counts.
        if cfg!(not(target_arch = "wasm32")) {
            let completed = Arc::clone(self.watchdog.completed());
            self.queue.on_submitted_work_done(move || {
                completed.add(1);
            });
        }
        submission
    }

    /// Submits what was written and waits for it.
    pub(crate) async fn flush(&self) -> Result<(), GpuError> {
        self.call("a write", || self.submit(None))?;
        self.wait().await
    }

    /// Waits until all submitted work is done, and reports what went wrong in it.
    pub(crate) async fn wait(&self) -> Result<(), GpuError> {
        let (sender, mut receiver) = oneshot::channel();
        // What others write meanwhile may not be done then.
        let written = self.counters.uploading.get();
        self.call("a wait", || {
            self.queue.on_submitted_work_done(move || {
                let _ = sender.send(());
            });
        })?;
        self.finish(&mut receiver, None).await?;
        // Two that wait at once may both have counted the same.
        self.counters.uploading.subtract(written);
        Ok(())
    }

    /// Drives the device until `receiver` has its answer, which comes when `submission` is done, or all are. May be dropped
    /// and called again. A queue that makes no progress before the deadline is given up, and the device lost.
    pub(crate) async fn finish<T>(
        &self,
        receiver: &mut oneshot::Receiver<T>,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Result<T, GpuError> {
        self.check()?;
        self.counters.waits.add(1);
        self.deferred_errors().await?;
        let mut progress = StallTimer::new(&self.watchdog);
        if self.is_of_application() {
            return poll_fn(|context| self.look(receiver, &mut progress, context)).await;
        }
        // Natively callbacks run inside poll; in a browser the event loop runs them.
        loop {
            let how = wgpu::PollType::Wait { submission_index: submission.clone(), timeout: self.watchdog.deadline() };
            if self.poll(how)?.is_some() {
                break;
            }
            self.give_up(&mut progress)?;
        }
        self.check()?;
        receiver.await.map_err(|_| self.dropped())
    }

    /// Looks for an answer without blocking. Natively nobody else may be polling, so that it is looked for again as soon as
    /// the executor likes; in a browser that would keep the event loop from running.
    fn look<T>(
        &self,
        receiver: &mut oneshot::Receiver<T>,
        progress: &mut StallTimer<'_>,
        context: &mut task::Context<'_>,
    ) -> Poll<Result<T, GpuError>> {
        let polled = if cfg!(target_arch = "wasm32") { None } else { self.poll(wgpu::PollType::Poll)? };
        if !self.hooks.hangs()
            && let Poll::Ready(answer) = Pin::new(receiver).poll(context)
        {
            return Poll::Ready(answer.map_err(|_| self.dropped()));
        }
        if let Some(status) = polled {
            if status.is_queue_empty() {
                // The answer is on its way from another thread's poll, or the device is lost.
                self.check()?;
            }
            self.give_up(progress)?;
            thread::yield_now();
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// An error, and the device's loss, where the queue makes no progress.
    fn give_up(&self, progress: &mut StallTimer<'_>) -> Result<(), GpuError> {
        match self.watchdog.deadline() {
            Some(waited) if progress.has_stalled() => Err(self.lose(Loss::Hung(waited))),
            _ => Ok(()),
        }
    }

    /// Runs the callbacks of what is done. `None`: what was waited for was not done in time.
    pub(crate) fn poll(&self, how: wgpu::PollType) -> Result<Option<wgpu::PollStatus>, GpuError> {
        if self.hooks.hangs() {
            return Ok(hanging(&how));
        }
        // wgpu panics where a driver reports here that the device is lost. What panics in a callback is not ours.
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(how))) {
            Ok(Ok(status)) => Ok(Some(status)),
            Ok(Err(wgpu::PollError::Timeout)) => Ok(None),
            Ok(Err(error)) => Err(self.lose(Loss::Reported(error.to_string()))),
            Err(panic) if is_of_poll(&*panic) => {
                Err(self.lose(Loss::Reported("the driver reported it in a wait".to_owned())))
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Whether what is submitted may be under way for ever.
    pub(super) fn never_ends(&self) -> bool {
        let is_empty = |polled: Option<wgpu::PollStatus>| polled.is_some_and(|status| status.is_queue_empty());
        cfg!(not(target_arch = "wasm32")) && self.has_hung() && !self.poll(wgpu::PollType::Poll).is_ok_and(is_empty)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // wgpu waits without end for a queue that is dropped while it works.
        if self.never_ends() {
            mem::forget(self.queue.clone());
        }
    }
}

/// What polling a queue that hangs gives.
fn hanging(how: &wgpu::PollType) -> Option<wgpu::PollStatus> {
    match how {
        wgpu::PollType::Poll => Some(wgpu::PollStatus::Poll),
        wgpu::PollType::Wait { timeout, .. } => {
            thread::sleep(timeout.unwrap_or(Duration::MAX));
            None
        }
    }
}

/// Whether a panic is wgpu's way to say that a poll failed.
fn is_of_poll(panic: &(dyn Any + Send)) -> bool {
    panic.downcast_ref::<String>().is_some_and(|message| message.starts_with("Error in Device::poll"))
}
