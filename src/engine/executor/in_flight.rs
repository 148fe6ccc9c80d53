//! Steps in flight: submitted to the device, and not read back yet.

use super::{
    StepInput,
    submit_budget::{Moment, StepRows, SubmitBudget, watched},
};
use crate::{
    engine::scheduler::{LogitRow, StepId, StepOutput},
    gpu::{Device, GpuError, Pending},
    kernels::sample,
};

/// A step in flight, with the readback of its results.
#[derive(Debug)]
pub(super) struct InFlightStep {
    step: StepId,
    rows: StepRows,
    submitted: Moment,
    /// The rows that tokens are sampled from.
    sampled: Vec<LogitRow>,
    /// The tokens of all slots.
    tokens: ReadbackOf<u32>,
    logits: Vec<LogitsReadback>,
}

/// Rows of logits of one pass on their way to the host.
#[derive(Debug)]
struct LogitsReadback {
    /// The rows, with their places in the pass.
    rows: Vec<(LogitRow, usize)>,
    logits: ReadbackOf<f32>,
}

/// A readback, and what it read.
#[derive(Debug)]
struct ReadbackOf<T> {
    pending: Pending<T>,
    read: Option<Vec<T>>,
}

impl<T: crate::gpu::Element> ReadbackOf<T> {
    fn new(pending: Pending<T>) -> Self {
        Self { pending, read: None }
    }

    /// Waits for the elements. May be dropped and called again.
    async fn wait(&mut self, device: &Device) -> Result<(), GpuError> {
        if self.read.is_none() {
            self.read = Some(self.pending.wait(device).await?);
        }
        Ok(())
    }
}

impl InFlightStep {
    pub(super) fn new(step: StepId, input: &StepInput, submitted: Moment, tokens: Pending<u32>) -> Self {
        let [prefill, decode] = [0, 1].map(|phase| input.passes[phase].len());
        Self {
            step,
            rows: StepRows { prefill, decode },
            submitted,
            sampled: input.sampled.clone(),
            tokens: ReadbackOf::new(tokens),
            logits: Vec::new(),
        }
    }

    /// Adds the readback of a pass's rows of logits.
    pub(super) fn read_logits(&mut self, rows: Vec<(LogitRow, usize)>, pending: Pending<f32>) {
        self.logits.push(LogitsReadback { rows, logits: ReadbackOf::new(pending) });
    }

    /// Waits for all results, and has `budget` learn from the time they took. May be dropped and called again.
    pub(super) async fn wait(&mut self, device: &Device, budget: &mut SubmitBudget) -> Result<(), GpuError> {
        if self.tokens.read.is_none() {
            let (read, just_now) = watched(self.tokens.wait(device)).await;
            read?;
            budget.finished(self.rows, self.submitted, just_now);
        }
        for pass in &mut self.logits {
            pass.logits.wait(device).await?;
        }
        Ok(())
    }

    /// Returns the results, for rows of `vocab` logits.
    pub(super) fn output(self, vocab: usize) -> StepOutput {
        let tokens = self.tokens.read.unwrap_or_default();
        let token_of = |row: LogitRow| {
            let token = tokens.get(row.slot as usize).copied().filter(|token| *token != sample::NO_TOKEN);
            (row, token)
        };
        let mut logits = Vec::new();
        for pass in self.logits {
            let read = pass.logits.read.unwrap_or_default();
            let row_of = |place: usize| read.get(place * vocab..(place + 1) * vocab).unwrap_or_default().to_vec();
            logits.extend(pass.rows.into_iter().map(|(row, place)| (row, row_of(place))));
        }
        StepOutput { step: self.step, tokens: self.sampled.into_iter().map(token_of).collect(), logits }
    }
}
