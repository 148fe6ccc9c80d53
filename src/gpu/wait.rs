//! Waiting for a queue, and giving up one that hangs.

use std::{future::poll_fn, mem, pin::Pin, sync::Arc, task::Poll, thread, time::Duration};

use futures_channel::oneshot;

#[cfg(not(target_arch = "wasm32"))]
use std::task;

#[cfg(not(target_arch = "wasm32"))]
use super::poller::WaitMode;
use super::{
    GpuError,
    context::{Context, Loss},
    poller::poll,
    watchdog::StallTimer,
};
#[cfg(target_arch = "wasm32")]
use super::{browser, clock::Instant};

/// How often a wait in a browser looks whether the queue hangs.
#[cfg(target_arch = "wasm32")]
const CHECK: Duration = Duration::from_secs(1);

impl Context {
    /// Submits commands and has it counted when they are done; among calls whose errors are caught.
    pub(crate) fn submit(&self, commands: Option<wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        let submission = self.queue.submit(commands);
        let completed = Arc::clone(self.watchdog.completed());
        self.queue.on_submitted_work_done(move || {
            completed.add(1);
        });
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

    /// Waits until `receiver` has its answer, which comes when `submission` is finished, or all submitted work is. May be
    /// dropped and called again. A queue that makes no progress before the deadline is given up, and the device lost.
    pub(crate) async fn finish<T>(
        &self,
        receiver: &mut oneshot::Receiver<T>,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Result<T, GpuError> {
        self.check()?;
        self.counters.waits.add(1);
        self.deferred_errors().await?;
        #[cfg(target_arch = "wasm32")]
        return {
            let _ = submission;
            self.answer_in_browser(receiver).await
        };
        #[cfg(not(target_arch = "wasm32"))]
        self.answer(receiver, submission).await
    }

    /// Waits for an answer that the browser's event loop brings.
    #[cfg(target_arch = "wasm32")]
    async fn answer_in_browser<T>(&self, receiver: &mut oneshot::Receiver<T>) -> Result<T, GpuError> {
        let mut timer = StallTimer::new(&self.watchdog);
        loop {
            let (started, mut pause) = (Instant::now(), browser::sleep(CHECK));
            let answer = poll_fn(|context| match Pin::new(&mut *receiver).poll(context) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending => Pin::new(&mut pause).poll(context).map(|()| None),
            })
            .await;
            match answer {
                Some(answer) => return answer.map_err(|_| self.dropped()),
                // The page was suspended, and so was the queue's answer.
                None if started.elapsed() > 5 * CHECK => timer = StallTimer::new(&self.watchdog),
                None => self.give_up(&mut timer)?,
            }
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    async fn answer<T>(
        &self,
        receiver: &mut oneshot::Receiver<T>,
        submission: Option<wgpu::SubmissionIndex>,
    ) -> Result<T, GpuError> {
        let mut timer = StallTimer::new(&self.watchdog);
        if self.poller.mode() == WaitMode::Blocking {
            return self.block(receiver, submission, &mut timer).await;
        }
        let mut registered = None;
        poll_fn(|context| {
            let answer = self.poll_answer(receiver, &mut timer, context)?;
            if answer.is_none() && !self.poller.wait(&mut registered, submission.as_ref(), context.waker()) {
                // There is no thread to poll: come back as soon as the executor likes.
                thread::yield_now();
                context.waker().wake_by_ref();
            }
            answer.map_or(Poll::Pending, |answer| Poll::Ready(Ok(answer)))
        })
        .await
    }

    /// Waits in the driver.
    #[cfg(not(target_arch = "wasm32"))]
    async fn block<T>(
        &self,
        receiver: &mut oneshot::Receiver<T>,
        submission: Option<wgpu::SubmissionIndex>,
        timer: &mut StallTimer<'_>,
    ) -> Result<T, GpuError> {
        loop {
            let how = wgpu::PollType::Wait { submission_index: submission.clone(), timeout: self.watchdog.deadline() };
            if self.poll(how)?.is_some() {
                break;
            }
            self.give_up(timer)?;
        }
        self.check()?;
        receiver.await.map_err(|_| self.dropped())
    }

    #[cfg(not(target_arch = "wasm32"))]
    /// Polls the device and looks for an answer, without blocking.
    fn poll_answer<T>(
        &self,
        receiver: &mut oneshot::Receiver<T>,
        timer: &mut StallTimer<'_>,
        context: &mut task::Context<'_>,
    ) -> Result<Option<T>, GpuError> {
        let status = self.poll(wgpu::PollType::Poll)?;
        if !self.hooks.hangs()
            && let Poll::Ready(answer) = Pin::new(receiver).poll(context)
        {
            return answer.map(Some).map_err(|_| self.dropped());
        }
        if status.is_some_and(|status| status.is_queue_empty()) {
            // The answer is on its way from another thread's poll, or the device is lost.
            self.check()?;
        }
        self.give_up(timer).map(|()| None)
    }

    /// Returns an error, and takes the device for lost, where the queue makes no progress.
    fn give_up(&self, progress: &mut StallTimer<'_>) -> Result<(), GpuError> {
        match self.watchdog.deadline() {
            Some(waited) if progress.has_stalled() => Err(self.lose(Loss::Hung(waited))),
            _ => Ok(()),
        }
    }

    /// Runs the callbacks of finished work. Returns `None` when a wait timed out.
    pub(crate) fn poll(&self, how: wgpu::PollType) -> Result<Option<wgpu::PollStatus>, GpuError> {
        if self.hooks.hangs() {
            return Ok(hanging(&how));
        }
        poll(&self.device, how).map_err(|message| self.lose(Loss::Reported(message)))
    }

    /// Returns whether submitted work may never end.
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

/// Polls a queue that hangs.
fn hanging(how: &wgpu::PollType) -> Option<wgpu::PollStatus> {
    match how {
        wgpu::PollType::Poll => Some(wgpu::PollStatus::Poll),
        wgpu::PollType::Wait { timeout, .. } => {
            thread::sleep(timeout.unwrap_or(Duration::MAX));
            None
        }
    }
}
