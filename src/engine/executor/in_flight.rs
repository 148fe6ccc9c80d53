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
    /// The rows that tokens are sampled from, each with the place of the token.
    sampled: Vec<(LogitRow, u32)>,
    /// The tokens of all places.
    tokens: ReadbackOf<u32>,
    rows_read: Vec<RowsReadback>,
}

/// Rows of logits or of hidden states of one pass on their way to the host.
#[derive(Debug)]
struct RowsReadback {
    /// The rows, with their places in the buffer.
    rows: Vec<(LogitRow, usize)>,
    /// Values of a row.
    width: usize,
    values: ReadbackOf<f32>,
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
            rows_read: Vec::new(),
        }
    }

    /// Adds the readback of a pass's rows of logits or of hidden states, of `width` values each.
    pub(super) fn read_rows(&mut self, rows: Vec<(LogitRow, usize)>, width: usize, pending: Pending<f32>) {
        self.rows_read.push(RowsReadback { rows, width, values: ReadbackOf::new(pending) });
    }

    /// Waits for all results, and has `budget` learn from the time they took. May be dropped and called again.
    pub(super) async fn wait(&mut self, device: &Device, budget: &mut SubmitBudget) -> Result<(), GpuError> {
        if self.tokens.read.is_none() {
            let (read, just_now) = watched(self.tokens.wait(device)).await;
            read?;
            budget.finished(self.rows, self.submitted, just_now);
        }
        for pass in &mut self.rows_read {
            pass.values.wait(device).await?;
        }
        Ok(())
    }

    /// Returns the results.
    pub(super) fn output(self) -> StepOutput {
        let tokens = self.tokens.read.unwrap_or_default();
        let token_of = |(row, place): (LogitRow, u32)| {
            let token = tokens.get(place as usize).copied().filter(|token| *token != sample::NO_TOKEN);
            (row, token)
        };
        let mut read_back = Vec::new();
        for RowsReadback { rows, width, values } in self.rows_read {
            let read = values.read.unwrap_or_default();
            let row_of = |place: usize| read.get(place * width..(place + 1) * width).unwrap_or_default().to_vec();
            read_back.extend(rows.into_iter().map(|(row, place)| (row, row_of(place))));
        }
        StepOutput { step: self.step, tokens: self.sampled.into_iter().map(token_of).collect(), read_back }
    }
}
