//! The input of a step: its plan in the arrays that programs read.

use super::PHASES;
use crate::{
    engine::{
        Sampler,
        scheduler::{DecodeRow, LogitRow, LogitsUse, RowSampling, RunStates, StepPlan},
    },
    kernels::{
        attn::CHUNK,
        delta_net::{NO_SLOT, RowRun},
        sample,
    },
    model::{Pass, Phase},
};

/// Returns the place of a row's token and state of sampling on the device: of a slot's last token the slot, of draft tokens
/// places behind all slots. A row's token is read there, and replaced by the one sampled from it.
pub(super) fn draft_place(slots: u32, drafts: u32, slot: u32, number: u32) -> u32 {
    if number == 0 { slot } else { slots + slot * drafts + number - 1 }
}

/// A state of sampling that the device is to get.
#[derive(Clone, Debug)]
pub(super) struct SamplingState {
    pub(super) place: u32,
    /// The number of the request.
    pub(super) request: u64,
    pub(super) sampler: Sampler,
    /// A mask constrains the request's tokens.
    pub(super) masked: bool,
}

/// The input of a step. Arrays are indexed as [`PHASES`].
#[derive(Debug, Default)]
pub(in crate::engine) struct StepInput {
    pub(super) passes: [PassInput; 2],
    /// The rows of logits to read back, each with its place among the rows of logits of its pass.
    pub(super) read_back: [Vec<(LogitRow, usize)>; 2],
    /// The rows whose hidden states are read back, in the order of [`PassInput::hidden_rows`].
    pub(super) hidden: [Vec<LogitRow>; 2],
    /// The rows that tokens are sampled from on the device, each with the place of the token.
    pub(super) sampled: Vec<(LogitRow, u32)>,
    /// The slots whose state of sampling the device does not have.
    pub(super) loads: Vec<SamplingState>,
    /// The counts of tokens that left the window of a slot's penalties: slot, token, count.
    pub(super) counts: Vec<(u32, u32, u32)>,
    /// The masks of constrained rows, with their slots.
    pub(super) masks: Vec<(u32, Vec<u32>)>,
}

/// The input of a step's pass of one phase.
#[derive(Clone, Debug, Default)]
pub(super) struct PassInput {
    /// Token ids of prefill rows.
    pub(super) ids: Vec<u32>,
    /// Position and slot of each row.
    pub(super) positions: Vec<[u32; 2]>,
    /// Position and place of each row's token, for passes with draft tokens.
    pub(super) places: Vec<[u32; 2]>,
    /// The runs of rows, for models with gated delta nets.
    pub(super) runs: Runs,
    /// Row and slot of each row of logits: those that tokens are sampled from, by path, then those only to read back.
    pub(super) logit_rows: Vec<[u32; 2]>,
    /// Row and slot of each row whose hidden state is read back.
    pub(super) hidden_rows: Vec<[u32; 2]>,
    /// How many rows are sampled in which way.
    pub(super) sampled: sample::Rows,
}

/// Runs of rows of one sequence each.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs {
    /// Each row's run, as [`RowRun`] has it.
    pub(super) rows: Vec<[u32; 4]>,
    /// The first row of each run.
    pub(super) first: Vec<u32>,
}

impl Runs {
    /// Adds a run of `count` rows.
    pub(super) fn add(&mut self, count: u32, states: &RunStates) {
        let first = self.rows.len() as u32;
        self.first.push(first);
        let of = |row: u32| {
            let to = states.to.iter().find(|(at, _)| *at == row).map_or(NO_SLOT, |(_, slot)| *slot);
            RowRun { first, end: first + count, from: states.from.unwrap_or(NO_SLOT), to }.words()
        };
        self.rows.extend((0..count).map(of));
    }
}

impl PassInput {
    /// Returns the number of rows.
    pub(super) fn len(&self) -> u32 {
        self.positions.len() as u32
    }

    /// Returns the pass's shape.
    pub(super) fn pass(&self, phase: Phase) -> Pass {
        let longest = self.positions.iter().map(|[position, _]| position + 1).max().unwrap_or(0);
        // Prefill attention does not split the context: its plan does not depend on it.
        let chunks = if phase == Phase::Decode { longest.div_ceil(CHUNK) } else { 0 };
        let runs = self.runs.first.len() as u32;
        let [logit_rows, hidden_rows] = [&self.logit_rows, &self.hidden_rows].map(|rows| rows.len() as u32);
        let (rows, draws, drafts) = (self.len(), self.sampled, !self.places.is_empty());
        Pass { phase, rows, runs, chunks, logit_rows, hidden_rows, draws, drafts }
    }
}

/// What [`StepInput::new`] needs to know of the executor.
pub(super) struct InputOptions<'a> {
    pub(super) host_sampling: bool,
    pub(super) slots: u32,
    /// The most draft tokens of a sequence in a step.
    pub(super) drafts: u32,
    pub(super) vocab: u32,
    /// Whether there are states.
    pub(super) has_states: bool,
    /// The request whose state of sampling each slot has.
    pub(super) loaded: &'a [Option<u64>],
}

impl StepInput {
    /// Returns the input for a plan: its rows by phase, and the rows of logits by use. `sampling_of` says how a
    /// row's request samples; a row whose request is over has none, and is read back in vain.
    pub(super) fn new<'s>(
        plan: &StepPlan,
        options: &InputOptions<'_>,
        sampling_of: impl Fn(&LogitRow) -> Option<RowSampling<'s>>,
    ) -> Self {
        let mut input = Self::default();
        let [prefill, decode] = &mut input.passes;
        for rows in &plan.prefill {
            prefill.ids.extend(&rows.tokens);
            prefill.positions.extend((rows.position..).take(rows.tokens.len()).map(|position| [position, rows.slot]));
            if options.has_states {
                prefill.runs.add(rows.tokens.len() as u32, &rows.states);
            }
        }
        if options.has_states {
            plan.decode.iter().for_each(|row| decode.runs.add(row.rows(), &row.states));
        }
        let rows_of = |row: &DecodeRow| (0..row.rows()).map(|i| (row.position + i, row.slot, i)).collect::<Vec<_>>();
        let place = |slot, number| draft_place(options.slots, options.drafts, slot, number);
        let rows: Vec<_> = plan.decode.iter().flat_map(rows_of).collect();
        decode.positions.extend(rows.iter().map(|(position, slot, _)| [*position, *slot]));
        if rows.len() > plan.decode.len() {
            decode.places.extend(rows.iter().map(|(position, slot, number)| [*position, place(*slot, *number)]));
        }
        // The plan numbers decode rows first.
        let first_prefill = plan.decode_rows();
        let mut sorted: [Vec<_>; PHASES.len()] = Default::default();
        for logits in &plan.logit_rows {
            let (phase, row) = match logits.row.checked_sub(first_prefill) {
                Some(row) => (0, row),
                None => (1, logits.row),
            };
            if let LogitsUse::Hidden { .. } = logits.usage {
                input.passes[phase].hidden_rows.push([row, logits.slot]);
                input.hidden[phase].push(*logits);
                continue;
            }
            let on_device = logits.usage == LogitsUse::Sample && !options.host_sampling;
            let sampling = sampling_of(logits).filter(|of| on_device && !of.sampler.options().on_host());
            let logprobs = sampling.is_some_and(|sampling| sampling.logprobs);
            let place = place(logits.slot, logits.draft_number());
            let path = sampling.map(|RowSampling { sampler, mask, drawn, .. }| {
                let (slot, request) = (logits.slot, logits.request);
                input.sampled.push((*logits, place));
                let path = sample::SamplingPath::new(sampler.options().cuts());
                // Nothing of the state is read for the most likely token.
                let loaded = match (path, drawn) {
                    (sample::SamplingPath::Greedy, Some(_)) if place != slot => true,
                    (sample::SamplingPath::TopK | sample::SamplingPath::FullVocab, Some(_)) => false,
                    _ => options.loaded.get(slot as usize) == Some(&Some(request)),
                };
                if !loaded {
                    let sampler = drawn.map_or_else(|| sampler.clone(), |drawn| sampler.after(drawn));
                    input.loads.push(SamplingState { place, request, sampler, masked: mask.is_some() });
                }
                input.counts.extend(sampler.left().map(|(id, count)| (slot, id, count)));
                input.masks.extend(mask.map(|mask| (slot, mask.to_vec())));
                let sampled = &mut input.passes[phase].sampled;
                (sampled.sequences, sampled.vocab) = (options.slots * (1 + options.drafts), options.vocab);
                sampled.penalised |= sampler.options().penalises() || mask.is_some();
                path
            });
            sorted[phase].push((path, row, (logits, place), logprobs));
        }
        for (phase, mut rows) in sorted.into_iter().enumerate() {
            // Rows only to read back come last.
            rows.sort_by_key(|(path, row, ..)| (path.is_none(), *path, *row));
            let pass = &mut input.passes[phase];
            for (at, (path, row, (logits, place), logprobs)) in rows.into_iter().enumerate() {
                pass.logit_rows.push([row, place]);
                if let Some(path) = path {
                    pass.sampled.add(path);
                }
                if path.is_none() || logprobs {
                    input.read_back[phase].push((*logits, at));
                }
            }
        }
        input
    }
}
