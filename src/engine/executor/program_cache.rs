//! Prepared programs by the shape of their pass.
//!
//! Under continuous batching sequences join and leave all the time, so that the same few shapes come again and again: their
//! plans are recorded once.

use crate::{
    gpu::{Device, GpuError, Plan, Program},
    model::Pass,
};

use super::submit_budget::round_parts;

/// Programs of some shapes. The least recently used one makes place for another. They share a parameter buffer and bind groups,
/// so that a new shape creates none of these but for new kernels.
#[derive(Debug)]
pub(super) struct ProgramCache {
    /// The most recently used program is the last.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The shape it is prepared for; `None` while it is prepared, or when its buffers were replaced.
    pass: Option<Pass>,
    program: Program,
}

impl ProgramCache {
    /// Returns a cache of so many programs.
    pub(super) fn new(device: &Device, capacity: usize) -> Self {
        let programs = Program::group(device, capacity.max(1)).into_iter();
        Self { entries: programs.map(|program| Entry { pass: None, program }).collect() }
    }

    /// Returns the program that was prepared last, with its shape.
    pub(super) fn current(&self) -> Option<(Pass, &Program)> {
        self.entries.last().and_then(|entry| Some((entry.pass?, &entry.program)))
    }

    /// Makes the program for `pass` the current one, to be sent in `parts` submissions or a few more. `record` records its plan
    /// unless it is cached. May be dropped and called again.
    ///
    /// # Errors
    /// Those of `record` and [`Program::prepare`].
    pub(super) async fn prepare(
        &mut self,
        device: &Device,
        pass: Pass,
        parts: usize,
        record: impl FnOnce() -> Result<Plan, GpuError>,
    ) -> Result<(), GpuError> {
        let found = self.entries.iter().position(|entry| entry.pass == Some(pass));
        let mut entry = self.entries.remove(found.unwrap_or_else(|| self.reusable()));
        let parts = round_parts(entry.program.submissions(), parts);
        if found.is_none() || entry.program.submissions() != parts {
            entry.pass = None;
        }
        self.entries.push(entry);
        let Some(entry) = self.entries.last_mut() else { return Ok(()) };
        if found.is_none() {
            entry.program.prepare(device, record()?).await?;
        }
        entry.program.split_submissions(device, parts).await?;
        entry.pass = Some(pass);
        Ok(())
    }

    /// Returns the entry to replace: one without a shape, or else the least recently used.
    fn reusable(&self) -> usize {
        self.entries.iter().position(|entry| entry.pass.is_none()).unwrap_or(0)
    }

    /// Forgets all shapes: a buffer of their plans was replaced.
    pub(super) fn invalidate(&mut self) {
        self.entries.iter_mut().for_each(|entry| entry.pass = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kernels::sample, model::Phase};

    fn pass(rows: u32) -> Pass {
        let draws = sample::Rows::default();
        Pass { phase: Phase::Decode, rows, runs: 0, chunks: 0, logit_rows: rows, hidden_rows: 0, draws, drafts: false }
    }

    /// Prepares the programs of some passes, and returns those whose plans were recorded.
    fn recorded(device: &Device, cache: &mut ProgramCache, rows: &[u32]) -> Vec<u32> {
        let mut recorded = Vec::new();
        for &rows in rows {
            let record = || {
                recorded.push(rows);
                Ok(Plan::default())
            };
            pollster::block_on(cache.prepare(device, pass(rows), 1, record)).expect("a program");
            assert_eq!(cache.current().map(|(pass, _)| pass), Some(pass(rows)));
        }
        recorded
    }

    #[test]
    fn the_least_recently_used_program_is_replaced() {
        let device = Device::cpu();
        let mut cache = ProgramCache::new(&device, 3);
        assert!(cache.current().is_none());
        assert_eq!(recorded(&device, &mut cache, &[1, 2, 1, 3, 2, 1]), [1, 2, 3]);
        assert_eq!(recorded(&device, &mut cache, &[4, 1, 2, 3]), [4, 3]);
        assert_eq!(cache.entries.len(), 3);
        cache.invalidate();
        assert!(cache.current().is_none());
        assert_eq!(recorded(&device, &mut cache, &[1, 2, 3, 1, 2, 3]), [1, 2, 3]);
        assert_eq!(cache.entries.len(), 3);
    }

    #[test]
    fn a_program_that_could_not_be_prepared_is_recorded_again() {
        let device = Device::cpu();
        let mut cache = ProgramCache::new(&device, 2);
        assert_eq!(recorded(&device, &mut cache, &[1, 2]), [1, 2]);
        let fails = || Err(GpuError::OtherDevice);
        assert!(pollster::block_on(cache.prepare(&device, pass(3), 1, fails)).is_err());
        assert!(cache.current().is_none());
        assert_eq!(recorded(&device, &mut cache, &[2, 3]), [3]);
    }
}
