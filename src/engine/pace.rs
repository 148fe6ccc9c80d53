//! How long steps take, and so how much of one is sent at a time.

use std::time::Duration;

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
    last_done: Option<Moment>,
}

/// A step of prompts lasts no longer than so many submissions: what waits for it waits no longer.
const SUBMISSIONS_OF_A_STEP: f64 = 10.0;

/// The fewest rows of prompts that a step is made of.
const FEWEST_ROWS: u32 = 16;

impl Pace {
    /// Takes in that a step is done.
    pub(super) fn done(&mut self, rows: StepRows, submitted: Moment) {
        let now = Moment::now();
        // Until the step before was done the device was busy with that.
        let before = self.last_done.and_then(|last| now.since(last));
        self.last_done = Some(now);
        let Some(taken) = now.since(submitted) else { return };
        let seconds = before.map_or(taken, |before| before.min(taken)).as_secs_f64();
        let blend = |old: &mut Option<f64>, new: f64| *old = Some(old.map_or(new, |old| 0.5 * (old + new)));
        match rows {
            StepRows { prompt: 0, drawn: 0 } => {}
            StepRows { prompt: 0, .. } => blend(&mut self.drawn_pass, seconds),
            StepRows { prompt, drawn } => {
                let of_drawn = if drawn > 0 { self.drawn_pass.unwrap_or(0.0) } else { 0.0 };
                blend(&mut self.prompt_row, (seconds - of_drawn).max(0.0) / f64::from(prompt));
            }
        }
    }

    /// In how many submissions of at most `limit` each a pass of so many rows of prompts is sent.
    pub(super) fn prompt_parts(&self, rows: u32, limit: Duration) -> usize {
        parts(self.prompt_row.map(|row| row * f64::from(rows)), limit)
    }

    /// In how many submissions of at most `limit` each a pass of drawn rows is sent.
    pub(super) fn drawn_parts(&self, limit: Duration) -> usize {
        parts(self.drawn_pass, limit)
    }

    /// How many rows of prompts a step should have, of at most `most`.
    pub(super) fn prompt_rows(&self, most: u32, limit: Duration) -> u32 {
        let time = limit.as_secs_f64() * SUBMISSIONS_OF_A_STEP;
        match self.prompt_row {
            Some(row) if row > 0.0 => ((time / row).min(f64::from(most)) as u32).max(FEWEST_ROWS).min(most),
            _ => most,
        }
    }
}

fn parts(seconds: Option<f64>, limit: Duration) -> usize {
    let limit = limit.as_secs_f64();
    match seconds {
        Some(seconds) if limit > 0.0 => (seconds / limit).ceil().max(1.0) as usize,
        // A limit of nothing is one that the smallest submission exceeds.
        _ if limit <= 0.0 => usize::MAX,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_long_is_sent_in_parts() {
        let limit = Duration::from_millis(100);
        let pace = Pace { prompt_row: Some(0.01), drawn_pass: Some(0.25), last_done: None };
        assert_eq!((pace.prompt_parts(32, limit), pace.drawn_parts(limit)), (4, 3));
        assert_eq!(pace.prompt_rows(512, limit), 100);
        assert_eq!(pace.prompt_rows(64, limit), 64);
        // What is not known is not cut, and nothing is cut below what is useful.
        assert_eq!((Pace::default().prompt_parts(512, limit), Pace::default().prompt_rows(512, limit)), (1, 512));
        let slow = Pace { prompt_row: Some(1.0), ..Pace::default() };
        assert_eq!((slow.prompt_rows(512, limit), slow.prompt_rows(8, limit)), (FEWEST_ROWS, 8));
        assert_eq!(Pace::default().prompt_parts(5, Duration::ZERO), usize::MAX);
    }

    #[test]
    #[cfg(not(target_arch = "wasm32"))]
    fn rows_are_timed() {
        let mut pace = Pace::default();
        let start = Moment::now();
        std::thread::sleep(Duration::from_millis(20));
        pace.done(StepRows { prompt: 10, drawn: 0 }, start);
        assert!(pace.prompt_row.is_some_and(|row| (0.002..0.2).contains(&row)));
        assert!(pace.drawn_pass.is_none());
    }
}
