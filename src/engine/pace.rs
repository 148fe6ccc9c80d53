//! How long steps take, and so how much of one is sent at a time.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    time::Duration,
};

/// Time since some moment; in a browser, where there is no clock, none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    #[cfg(not(target_arch = "wasm32"))]
    at: std::time::Instant,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self {
            #[cfg(not(target_arch = "wasm32"))]
            at: std::time::Instant::now(),
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn since(self, earlier: Self) -> Option<Duration> {
        Some(self.at.saturating_duration_since(earlier.at))
    }

    #[cfg(target_arch = "wasm32")]
    fn since(self, _: Self) -> Option<Duration> {
        None
    }

    fn is_after(self, other: Self) -> bool {
        self.since(other).is_some_and(|time| !time.is_zero())
    }
}

/// Rows of a step of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StepRows {
    pub(super) prompt: u32,
    pub(super) drawn: u32,
}

/// What is known of the time that rows take.
#[derive(Clone, Debug, Default)]
pub(super) struct Pace {
    /// Seconds of a row of a prompt, and of a pass of drawn rows.
    prompt_row: Option<f64>,
    drawn_pass: Option<f64>,
    /// When the last step was seen to be done, and whether that was when it was done.
    last_done: Option<(Moment, bool)>,
    /// Nothing can be known.
    no_clock: bool,
}

/// A step of prompts lasts no longer than so many submissions: what waits for it waits no longer.
const SUBMISSIONS_OF_A_STEP: f64 = 10.0;

/// The fewest rows of prompts that a step is made of; so many it has while nothing is known.
const FEWEST_ROWS: u32 = 16;

/// In how many submissions a pass is sent while nothing is known: on devices that are worth using, a few dispatches of few
/// rows take no longer than they may.
const FIRST_PARTS: usize = 64;

/// Who has to wait so long for a step waits until it is done: reading what is there takes less.
const WAITED: Duration = Duration::from_millis(1);

/// Who looks again after so long saw it when it was done.
const LOOKED_AGAIN: Duration = Duration::from_millis(5);

/// Awaits a step's results, and tells whether they came just now: not if nobody looked when they did.
pub(super) async fn watched<R>(results: impl Future<Output = R>) -> (R, bool) {
    let mut results = pin!(results);
    let mut looked: Option<Moment> = None;
    poll_fn(|context| {
        let now = Moment::now();
        let polled = results.as_mut().poll(context);
        let waited = Moment::now().since(now).is_some_and(|waited| waited >= WAITED);
        let again = looked.and_then(|looked| now.since(looked)).is_some_and(|ago| ago <= LOOKED_AGAIN);
        looked = Some(Moment::now());
        polled.map(|results| (results, waited || again))
    })
    .await
}

impl Pace {
    /// Takes in that a step is done, and whether it was done only just now.
    pub(super) fn done(&mut self, rows: StepRows, submitted: Moment, just_now: bool) {
        let now = Moment::now();
        // Until the step before was done the device was busy with that.
        let last = self.last_done.replace((now, just_now)).filter(|(last, _)| last.is_after(submitted));
        let (start, exact) = match last {
            None => (submitted, just_now),
            Some((last, true)) => (last, just_now),
            // When that was is not known.
            Some((_, false)) => (submitted, false),
        };
        let Some(taken) = now.since(start) else {
            self.no_clock = true;
            return;
        };
        let seconds = taken.as_secs_f64();
        let learn = |known: &mut Option<f64>, new: f64| {
            *known = Some(match *known {
                Some(old) if exact => 0.5 * (old + new),
                // It took no longer.
                Some(old) => old.min(new),
                None => new,
            });
        };
        match rows {
            StepRows { prompt: 0, drawn: 0 } => {}
            StepRows { prompt: 0, .. } => learn(&mut self.drawn_pass, seconds),
            StepRows { prompt, drawn } => {
                let of_drawn = if drawn > 0 { self.drawn_pass.unwrap_or(0.0) } else { 0.0 };
                learn(&mut self.prompt_row, (seconds - of_drawn).max(0.0) / f64::from(prompt));
            }
        }
    }

    /// In how many submissions of at most `limit` each a pass of so many rows of prompts is sent.
    pub(super) fn prompt_parts(&self, rows: u32, limit: Duration) -> usize {
        parts(self.prompt_row.map(|row| row * f64::from(rows)), limit)
    }

    /// In how many submissions of at most `limit` each a pass of drawn rows is sent.
    pub(super) fn drawn_parts(&self, limit: Duration) -> usize {
        // Without a clock there is nothing better to go by than that it is small.
        parts(self.drawn_pass.or(self.no_clock.then_some(0.0)), limit)
    }

    /// How many rows of prompts a step should have, of at most `most`.
    pub(super) fn prompt_rows(&self, most: u32, limit: Duration) -> u32 {
        let time = limit.as_secs_f64() * SUBMISSIONS_OF_A_STEP;
        let rows = match self.prompt_row {
            Some(row) if row > 0.0 => (time / row).min(f64::from(most)) as u32,
            None if !self.no_clock => FEWEST_ROWS,
            _ => most,
        };
        rows.max(FEWEST_ROWS).min(most)
    }
}

/// In how many parts a pass is sent that is sent in `now` and needs `needed`: a power of two, and no fewer than now where
/// that is no more than twice as many, so that a program is seldom cut anew.
pub(super) fn steady_parts(now: usize, needed: usize) -> usize {
    let least = needed.max(1).checked_next_power_of_two().unwrap_or(usize::MAX);
    let keeps = least > 1 && now >= least && now / 2 <= least && (now == usize::MAX) == (least == usize::MAX);
    if keeps { now } else { least }
}

fn parts(seconds: Option<f64>, limit: Duration) -> usize {
    let limit = limit.as_secs_f64();
    match seconds {
        // A limit of nothing is one that the smallest submission exceeds.
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
    fn what_takes_long_is_sent_in_parts() {
        let pace = Pace { prompt_row: Some(0.01), drawn_pass: Some(0.25), ..Pace::default() };
        assert_eq!((pace.prompt_parts(32, LIMIT), pace.drawn_parts(LIMIT)), (4, 3));
        assert_eq!(pace.prompt_rows(512, LIMIT), 100);
        assert_eq!(pace.prompt_rows(64, LIMIT), 64);
        // Nothing is cut below what is useful.
        let slow = Pace { prompt_row: Some(1.0), ..Pace::default() };
        assert_eq!((slow.prompt_rows(512, LIMIT), slow.prompt_rows(8, LIMIT)), (FEWEST_ROWS, 8));
        assert_eq!(Pace::default().prompt_parts(5, Duration::ZERO), usize::MAX);
    }

    #[test]
    fn parts_change_seldom() {
        let mut now = 1;
        let sent = [1, 2, 3, 4, 2, 3, 1, 1, 9, 16, 5, 4, usize::MAX, 100, 40].map(|needed| {
            now = steady_parts(now, needed);
            assert!(now >= needed);
            now
        });
        assert_eq!(sent, [1, 2, 4, 4, 4, 4, 1, 1, 16, 16, 16, 4, usize::MAX, 128, 128]);
        assert_eq!(steady_parts(0, 0), 1);
    }

    #[test]
    fn what_is_not_known_is_tried_with_little() {
        let mut pace = Pace::default();
        assert_eq!((pace.prompt_rows(512, LIMIT), pace.prompt_parts(16, LIMIT)), (FEWEST_ROWS, FIRST_PARTS));
        assert_eq!((pace.prompt_rows(3, LIMIT), pace.drawn_parts(LIMIT)), (3, FIRST_PARTS));
        pace.no_clock = true;
        assert_eq!((pace.prompt_rows(512, LIMIT), pace.prompt_parts(512, LIMIT)), (512, FIRST_PARTS));
        assert_eq!(pace.drawn_parts(LIMIT), 1);
    }

    #[cfg(not(target_arch = "wasm32"))]
    mod timed {
        use super::*;

        const PROMPT: StepRows = StepRows { prompt: 10, drawn: 0 };
        const DRAWN: StepRows = StepRows { prompt: 0, drawn: 3 };

        fn sleep() {
            std::thread::sleep(Duration::from_millis(20));
        }

        /// What lasted since `start`, with nothing but a sleep in it.
        fn is(known: Option<f64>, start: Moment) {
            let most = Moment::now().since(start).map(|time| time.as_secs_f64());
            assert!(known >= Some(0.02) && known <= most, "{known:?} of {most:?}");
        }

        #[test]
        fn a_step_lasts_from_the_end_of_the_one_before() {
            let mut pace = Pace::default();
            let both = Moment::now();
            sleep();
            let first_done = Moment::now();
            pace.done(PROMPT, both, true);
            is(pace.prompt_row.map(|row| 10.0 * row), both);
            assert!(pace.drawn_pass.is_none());
            sleep();
            pace.done(DRAWN, both, true);
            is(pace.drawn_pass, first_done);
        }

        #[test]
        fn a_host_that_is_late_learns_only_what_is_enough() {
            let mut pace = Pace { drawn_pass: Some(0.005), ..Pace::default() };
            let both = Moment::now();
            sleep();
            // It was done some time ago.
            pace.done(DRAWN, both, false);
            assert_eq!(pace.drawn_pass, Some(0.005));
            // And so the next one took not so little, for it began some time ago.
            pace.done(PROMPT, both, true);
            is(pace.prompt_row.map(|row| 10.0 * row), both);
        }

        #[test]
        fn waiting_tells_that_something_was_done_just_now() {
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
                // A machine that has other things to do may be slow, but not always.
                let mut tried = 0..1000;
                while watched(async {}).await.1 || !watched(polled_twice()).await.1 {
                    assert!(tried.next().is_some());
                }
                assert!(watched(async { sleep() }).await.1);
                // Nobody looks for a while.
                let mut late = Box::pin(watched(polled_twice()));
                let polled = poll_fn(|context| std::task::Poll::Ready(late.as_mut().poll(context))).await;
                assert!(polled.is_pending());
                sleep();
                assert!(!late.await.1);
            });
        }
    }
}
