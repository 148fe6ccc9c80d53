//! The submission budget: how long steps take, and so into how many submissions one is split.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

use crate::gpu::Instant;

/// A moment.
#[derive(Clone, Copy, Debug)]
pub(in crate::engine) struct Moment(Instant);

impl Moment {
    pub(in crate::engine) fn now() -> Self {
        Self(Instant::now())
    }

    fn since(self, earlier: Self) -> Duration {
        self.0.saturating_duration_since(earlier.0)
    }

    fn is_after(self, other: Self) -> bool {
        !self.since(other).is_zero()
    }
}

/// The rows of a step by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StepRows {
    pub(super) prefill: u32,
    pub(super) decode: u32,
}

/// Estimates of the time that rows take, from the steps so far.
#[derive(Clone, Debug, Default)]
pub(super) struct SubmitBudget {
    /// Seconds of a prefill row.
    prefill_row: Option<f64>,
    /// Seconds of a decode pass.
    decode_pass: Option<f64>,
    /// When the last step was seen to be finished, and whether it had finished just then.
    last_finished: Option<(Moment, bool)>,
}

/// The longest prefill step in submissions: decode waits no longer for it.
const MAX_SUBMISSIONS: f64 = 10.0;

/// The fewest prefill rows of a step, and their number while nothing is known.
pub(super) const MIN_PREFILL_ROWS: u32 = 16;

/// The submissions of a pass while nothing is known: few rows of few dispatches fit into one on any useful device.
const FIRST_PARTS: usize = 64;

/// A poll that blocked for so long ended when the step finished: reading results that are there is faster.
const BLOCKED: Duration = Duration::from_millis(1);

/// A poll so soon after another one saw the step finish: waiting futures are polled twice as often.
const POLLED_AGAIN: Duration = Duration::from_millis(10);

/// Awaits a step's results, and returns whether they came just now: not if nothing polled when they came.
pub(super) async fn watched<R>(results: impl Future<Output = R>) -> (R, bool) {
    let mut results = pin!(results);
    let mut polled_at: Option<Moment> = None;
    poll_fn(|context| {
        let now = Moment::now();
        let polled = results.as_mut().poll(context);
        let blocked = Moment::now().since(now) >= BLOCKED;
        let again = polled_at.is_some_and(|polled_at| now.since(polled_at) <= POLLED_AGAIN);
        polled_at = Some(Moment::now());
        polled.map(|results| (results, blocked || again))
    })
    .await
}

impl SubmitBudget {
    /// Learns from a finished step; `just_now` says whether it finished just now.
    pub(super) fn finished(&mut self, rows: StepRows, submitted: Moment, just_now: bool) {
        let now = Moment::now();
        // Until the step before had finished, the device was busy with that.
        let last = self.last_finished.replace((now, just_now)).filter(|(last, _)| last.is_after(submitted));
        let (start, exact) = match last {
            None => (submitted, just_now),
            Some((last, true)) => (last, just_now),
            // Its time is not known.
            Some((_, false)) => (submitted, false),
        };
        let seconds = now.since(start).as_secs_f64();
        let learn = |known: &mut Option<f64>, new: f64| {
            *known = Some(match *known {
                Some(old) if exact => 0.5 * (old + new),
                // It is an upper bound.
                Some(old) => old.min(new),
                None => new,
            });
        };
        match rows {
            StepRows { prefill: 0, decode: 0 } => {}
            StepRows { prefill: 0, .. } => learn(&mut self.decode_pass, seconds),
            StepRows { prefill, decode } => {
                let decode = if decode > 0 { self.decode_pass.unwrap_or(0.0) } else { 0.0 };
                learn(&mut self.prefill_row, (seconds - decode).max(0.0) / f64::from(prefill));
            }
        }
    }

    /// Returns the number of submissions, of at most `limit` each, for a pass of so many prefill rows.
    pub(super) fn prefill_parts(&self, rows: u32, limit: Duration) -> usize {
        parts(self.prefill_row.map(|row| row * f64::from(rows)), limit)
    }

    /// Returns the number of submissions, of at most `limit` each, for a decode pass.
    pub(super) fn decode_parts(&self, limit: Duration) -> usize {
        parts(self.decode_pass, limit)
    }

    /// Returns the number of prefill rows for a step, `most` at most.
    pub(super) fn prefill_rows(&self, most: u32, limit: Duration) -> u32 {
        let time = limit.as_secs_f64() * MAX_SUBMISSIONS;
        let rows = match self.prefill_row {
            Some(row) if row > 0.0 => (time / row).min(f64::from(most)) as u32,
            None => MIN_PREFILL_ROWS,
            _ => most,
        };
        rows.max(MIN_PREFILL_ROWS).min(most)
    }
}

/// Returns the parts for a pass that is split into `now` and needs `needed`: a power of two, and still `now` where that is at
/// most twice as many, so that a program is seldom split anew (hysteresis).
pub(super) fn round_parts(now: usize, needed: usize) -> usize {
    let least = needed.max(1).checked_next_power_of_two().unwrap_or(usize::MAX);
    let keeps = least > 1 && now >= least && now / 2 <= least && (now == usize::MAX) == (least == usize::MAX);
    if keeps { now } else { least }
}

fn parts(seconds: Option<f64>, limit: Duration) -> usize {
    let limit = limit.as_secs_f64();
    match seconds {
        // The smallest submission exceeds a limit of zero.
        _ if limit <= 0.0 => usize::MAX,
        Some(seconds) => (seconds / limit).ceil().max(1.0) as usize,
        None => FIRST_PARTS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(100);

    #[test]
    fn long_passes_are_split() {
        let budget = SubmitBudget { prefill_row: Some(0.01), decode_pass: Some(0.25), ..SubmitBudget::default() };
        assert_eq!((budget.prefill_parts(32, LIMIT), budget.decode_parts(LIMIT)), (4, 3));
        assert_eq!(budget.prefill_rows(512, LIMIT), 100);
        assert_eq!(budget.prefill_rows(64, LIMIT), 64);
        // Steps keep a useful size.
        let slow = SubmitBudget { prefill_row: Some(1.0), ..SubmitBudget::default() };
        assert_eq!((slow.prefill_rows(512, LIMIT), slow.prefill_rows(8, LIMIT)), (MIN_PREFILL_ROWS, 8));
        assert_eq!(SubmitBudget::default().prefill_parts(5, Duration::ZERO), usize::MAX);
    }

    #[test]
    fn parts_change_seldom() {
        let mut now = 1;
        let sent = [1, 2, 3, 4, 2, 3, 1, 1, 9, 16, 5, 4, usize::MAX, 100, 40].map(|needed| {
            now = round_parts(now, needed);
            assert!(now >= needed);
            now
        });
        assert_eq!(sent, [1, 2, 4, 4, 4, 4, 1, 1, 16, 16, 16, 4, usize::MAX, 128, 128]);
        assert_eq!(round_parts(0, 0), 1);
    }

    #[test]
    fn first_steps_are_small() {
        let budget = SubmitBudget::default();
        assert_eq!((budget.prefill_rows(512, LIMIT), budget.prefill_parts(16, LIMIT)), (MIN_PREFILL_ROWS, FIRST_PARTS));
        assert_eq!((budget.prefill_rows(3, LIMIT), budget.decode_parts(LIMIT)), (3, FIRST_PARTS));
    }

    #[cfg(not(target_arch = "wasm32"))]
    mod timed {
        use super::*;

        const PREFILL: StepRows = StepRows { prefill: 10, decode: 0 };
        const DECODE: StepRows = StepRows { prefill: 0, decode: 3 };

        fn sleep() {
            std::thread::sleep(Duration::from_millis(20));
        }

        /// Checks an estimate of the time since `start`, which was a sleep.
        fn is(known: Option<f64>, start: Moment) {
            let most = Moment::now().since(start).as_secs_f64();
            assert!(known >= Some(0.02) && known <= Some(most), "{known:?} of {most:?}");
        }

        #[test]
        fn a_step_lasts_from_the_end_of_the_one_before() {
            let mut budget = SubmitBudget::default();
            let both = Moment::now();
            sleep();
            let first_finished = Moment::now();
            budget.finished(PREFILL, both, true);
            is(budget.prefill_row.map(|row| 10.0 * row), both);
            assert!(budget.decode_pass.is_none());
            sleep();
            budget.finished(DECODE, both, true);
            is(budget.decode_pass, first_finished);
        }

        #[test]
        fn a_late_host_learns_upper_bounds() {
            let mut budget = SubmitBudget { decode_pass: Some(0.005), ..SubmitBudget::default() };
            let both = Moment::now();
            sleep();
            // It finished some time ago.
            budget.finished(DECODE, both, false);
            assert_eq!(budget.decode_pass, Some(0.005));
            // So the next one, which began then, took longer than since now.
            budget.finished(PREFILL, both, true);
            is(budget.prefill_row.map(|row| 10.0 * row), both);
        }

        #[test]
        fn polls_tell_whether_a_step_finished_just_now() {
            let polled_twice = || {
                let mut first = true;
                poll_fn(move |context| {
                    if !std::mem::replace(&mut first, false) {
                        return std::task::Poll::Ready(());
                    }
                    context.waker().wake_by_ref();
                    std::task::Poll::Pending
                })
            };
            pollster::block_on(async {
                // A busy machine may be slow, but not always.
                let mut tried = 0..1000;
                while watched(async {}).await.1 || !watched(polled_twice()).await.1 {
                    assert!(tried.next().is_some());
                }
                assert!(watched(async { sleep() }).await.1);
                // Nothing polls for a while.
                let mut late = Box::pin(watched(polled_twice()));
                let polled = poll_fn(|context| std::task::Poll::Ready(late.as_mut().poll(context))).await;
                assert!(polled.is_pending());
                sleep();
                assert!(!late.await.1);
            });
        }
    }
}
