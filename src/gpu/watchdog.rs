//! Detection of a queue that hangs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::{clock::Instant, counters::Counter};

/// The deadline of a queue, and the submissions that it has completed.
#[derive(Debug)]
pub(super) struct Watchdog {
    /// In nanoseconds.
    deadline: AtomicU64,
    completed: Arc<Counter>,
}

/// The default deadline of a GPU: drivers reset a GPU after a few seconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// The default deadline of a software driver: one dispatch may take long on a busy processor.
const SOFTWARE_DEADLINE: Duration = Duration::from_secs(600);

impl Watchdog {
    const NO_DEADLINE: u64 = u64::MAX;

    /// Creates a watchdog with the default deadline.
    pub(super) fn new(software: bool) -> Self {
        let watchdog = Self { deadline: AtomicU64::new(0), completed: Arc::default() };
        watchdog.set_deadline(Some(if software { SOFTWARE_DEADLINE } else { DEADLINE }));
        watchdog
    }

    pub(super) fn set_deadline(&self, deadline: Option<Duration>) {
        let nanos = deadline.map(|deadline| u64::try_from(deadline.as_nanos()).unwrap_or(Self::NO_DEADLINE));
        self.deadline.store(nanos.unwrap_or(Self::NO_DEADLINE), Ordering::Relaxed);
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        let nanos = self.deadline.load(Ordering::Relaxed);
        (nanos != Self::NO_DEADLINE).then(|| Duration::from_nanos(nanos))
    }

    /// Returns the counter of completed submissions.
    pub(super) fn completed(&self) -> &Arc<Counter> {
        &self.completed
    }
}

/// The time since a waiting task last saw its queue make progress.
pub(super) struct StallTimer<'a> {
    watchdog: &'a Watchdog,
    completed: u64,
    /// When `completed` was first seen.
    since: Instant,
}

impl<'a> StallTimer<'a> {
    pub(super) fn new(watchdog: &'a Watchdog) -> Self {
        Self { watchdog, completed: watchdog.completed.get(), since: Instant::now() }
    }

    /// Returns whether the queue has completed nothing for the length of the deadline.
    pub(super) fn has_stalled(&mut self) -> bool {
        let Some(deadline) = self.watchdog.deadline() else { return false };
        if self.watchdog.completed.get() != self.completed {
            *self = Self::new(self.watchdog);
            return false;
        }
        self.since.elapsed() >= deadline
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_queue_stalls_when_it_completes_nothing_until_the_deadline() {
        let watchdog = Watchdog::new(false);
        assert!(watchdog.deadline() < Watchdog::new(true).deadline());
        let mut timer = StallTimer::new(&watchdog);
        assert!(!timer.has_stalled());
        watchdog.set_deadline(Some(Duration::ZERO));
        assert!(timer.has_stalled());
        // Progress restarts the timer.
        watchdog.set_deadline(Some(Duration::from_millis(200)));
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(500) {
            watchdog.completed().add(1);
            assert!(!timer.has_stalled());
            thread::sleep(Duration::from_millis(1));
        }
        while !timer.has_stalled() {
            thread::sleep(Duration::from_millis(1));
        }
        assert!(timer.has_stalled() && start.elapsed() >= Duration::from_millis(650));
        watchdog.set_deadline(None);
        assert!(!timer.has_stalled() && watchdog.deadline().is_none());
    }
}
