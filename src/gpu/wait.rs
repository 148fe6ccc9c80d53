//! Waiting for a queue, and giving one up that hangs.

use std::{
    any::Any,
    future::poll_fn,
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    thread,
    time::{Duration, Instant},
};

use futures_channel::oneshot;

use super::{
    GpuError,
    driver::{Gpu, Loss},
};

/// How long a queue may take to be done with any submission, before it is taken for one that hangs.
#[derive(Debug)]
pub(crate) struct Patience {
    /// In nanoseconds.
    deadline: AtomicU64,
    /// Submissions that are done.
    done: Arc<AtomicU64>,
    /// See [`Device::hang`](super::Device::hang).
    hangs: AtomicBool,
}

/// A queue that has done nothing for so long hangs: drivers of GPUs themselves end what takes a few seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// A software driver may take long for one dispatch, on a processor that has other things to do.
const SOFTWARE_DEADLINE: Duration = Duration::from_secs(600);

impl Patience {
    const WITHOUT_END: u64 = u64::MAX;

    /// What a device has if nobody says otherwise.
    pub(super) fn new(software: bool) -> Self {
        let patience = Self { deadline: AtomicU64::new(0), done: Arc::default(), hangs: AtomicBool::new(false) };
        patience.set(Some(if software { SOFTWARE_DEADLINE } else { DEADLINE }));
        patience
    }

    pub(crate) fn set(&self, deadline: Option<Duration>) {
        let nanos = deadline.map(|deadline| u64::try_from(deadline.as_nanos()).unwrap_or(Self::WITHOUT_END));
        self.deadline.store(nanos.unwrap_or(Self::WITHOUT_END), Ordering::Relaxed);
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        let nanos = self.deadline.load(Ordering::Relaxed);
        (nanos != Self::WITHOUT_END).then(|| Duration::from_nanos(nanos))
    }

    /// From now on no answer is seen.
    pub(crate) fn hang(&self) {
        self.hangs.store(true, Ordering::Relaxed);
    }

    fn hangs(&self) -> bool {
        self.hangs.load(Ordering::Relaxed)
    }
}

/// What somebody who waits has seen of a queue's progress.
struct Progress<'a> {
    patience: &'a Patience,
    done: u64,
    /// When that was seen first; in a browser there is no clock.
    since: Option<Instant>,
}

impl<'a> Progress<'a> {
    fn new(patience: &'a Patience) -> Self {
        let since = cfg!(not(target_arch = "wasm32")).then(Instant::now);
        Self { patience, done: patience.done.load(Ordering::Relaxed), since }
    }

    /// Whether the queue has done nothing for too long.
    fn is_none(&mut self) -> bool {
        let (Some(since), Some(deadline)) = (self.since, self.patience.deadline()) else { return false };
        if self.patience.done.load(Ordering::Relaxed) != self.done {
            *self = Self::new(self.patience);
            return false;
        }
        since.elapsed() >= deadline
    }
}

impl Gpu {
    /// Submits commands and has it counted when they are done; among calls whose errors are caught.
    pub(crate) fn submit(&self, commands: Option<wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        let submission = self.queue.submit(commands);
        // In a browser nobody counts.
        if cfg!(not(target_arch = "wasm32")) {
            let done = Arc::clone(&self.patience.done);
            self.queue.on_submitted_work_done(move || {
                done.fetch_add(1, Ordering::Relaxed);
            });
        }
        submission
    }

    /// Submits what was written and waits for it.
    pub(crate) async fn flush(&self) -> Result<(), GpuError> {
        self.now("a write", || self.submit(None))?;
        self.wait().await
    }

    /// Waits until all submitted work is done, and reports what went wrong in it.
    pub(crate) async fn wait(&self) -> Result<(), GpuError> {
        let (sender, mut receiver) = oneshot::channel();
        // What others write meanwhile may not be done then.
        let written = self.uploading.load(Ordering::Relaxed);
        self.now("a wait", || {
            self.queue.on_submitted_work_done(move || {
                let _ = sender.send(());
            });
        })?;
        self.finish(&mut receiver, None).await?;
        // Two that wait at once may both have counted the same.
        let less = |left: u64| Some(left.saturating_sub(written));
        let _ = self.uploading.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
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
        self.waits.fetch_add(1, Ordering::Relaxed);
        self.errors_told_later().await?;
        let mut progress = Progress::new(&self.patience);
        if self.is_of_application() {
            return poll_fn(|context| self.look(receiver, &mut progress, context)).await;
        }
        // Natively callbacks run inside poll; in a browser the event loop runs them.
        loop {
            let how = wgpu::PollType::Wait { submission_index: submission.clone(), timeout: self.patience.deadline() };
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
        progress: &mut Progress<'_>,
        context: &mut Context<'_>,
    ) -> Poll<Result<T, GpuError>> {
        let polled = if cfg!(target_arch = "wasm32") { None } else { self.poll(wgpu::PollType::Poll)? };
        if !self.patience.hangs()
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
    fn give_up(&self, progress: &mut Progress<'_>) -> Result<(), GpuError> {
        match self.patience.deadline() {
            Some(waited) if progress.is_none() => Err(self.lose(Loss::Hung(waited))),
            _ => Ok(()),
        }
    }

    /// Runs the callbacks of what is done. `None`: what was waited for was not done in time.
    pub(crate) fn poll(&self, how: wgpu::PollType) -> Result<Option<wgpu::PollStatus>, GpuError> {
        if self.patience.hangs() {
            return Ok(hanging(&how));
        }
        // wgpu panics where a driver reports here that the device is lost. What panics in a callback is not ours.
        match catch_unwind(AssertUnwindSafe(|| self.device.poll(how))) {
            Ok(Ok(status)) => Ok(Some(status)),
            Ok(Err(wgpu::PollError::Timeout)) => Ok(None),
            Ok(Err(error)) => Err(self.lose(Loss::Told(error.to_string()))),
            Err(panic) if is_of_poll(&*panic) => {
                Err(self.lose(Loss::Told("the driver reported it in a wait".to_owned())))
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

impl Drop for Gpu {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_hangs_that_does_nothing_until_the_deadline() {
        let patience = Patience::new(false);
        assert!(patience.deadline() < Patience::new(true).deadline());
        let mut progress = Progress::new(&patience);
        assert!(!progress.is_none());
        patience.set(Some(Duration::ZERO));
        assert!(progress.is_none());
        // What is done begins it anew.
        patience.set(Some(Duration::from_millis(200)));
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            patience.done.fetch_add(1, Ordering::Relaxed);
            assert!(!progress.is_none());
            thread::sleep(Duration::from_millis(1));
        }
        while !progress.is_none() {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(progress.is_none() && start.elapsed() >= Duration::from_millis(650));
        patience.set(None);
        assert!(!progress.is_none() && patience.deadline().is_none());
    }
}
