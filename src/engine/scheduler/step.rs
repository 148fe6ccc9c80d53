//! A step's plan, and what the executor computed for it: plain data.

use super::SequenceId;
use crate::{engine::Sampler, kv::BlockCopy};

/// The number of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StepId(pub(super) u64);

/// A step that is not the expected one: drop it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the step is out of date")]
pub(crate) struct StaleStep;

/// The rows of one batch. They are numbered: first those of `decode`, each with its drafts, then those of `prefill`, in order.
#[derive(Debug)]
pub(crate) struct StepPlan {
    pub(crate) id: StepId,
    /// Run before anything else, each with its group of layers. No block is both read and written, nor written twice.
    pub(crate) block_copies: Vec<(usize, BlockCopy)>,
    /// Changes of the slots' block tables, applied before any row is computed.
    pub(crate) block_tables: Vec<BlockTableUpdate>,
    /// A row for each sequence in its decode phase.
    pub(crate) decode: Vec<DecodeRow>,
    /// Chunks of prompts.
    pub(crate) prefill: Vec<PrefillRows>,
    /// The rows whose logits or hidden states are used, in order of the rows.
    pub(crate) logit_rows: Vec<LogitRow>,
    /// A mask depends on a token that the step before samples: the device samples once the host has read it.
    pub(crate) masks_later: bool,
}

/// The block table of a slot and a group of layers, from entry `first` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockTableUpdate {
    pub(crate) slot: u32,
    pub(crate) group: usize,
    pub(crate) first: u32,
    pub(crate) blocks: Vec<u32>,
}

/// The states of recurrent layers of a run of rows, by the slots of states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RunStates {
    /// The slot of the state before the first row; `None`: the sequence begins.
    pub(crate) from: Option<u32>,
    /// The rows of the run after which the state is stored, each with its slot.
    pub(crate) to: Vec<(u32, u32)>,
}

/// The row of a sampled token, and the rows of the draft that follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DecodeRow {
    pub(crate) sequence: SequenceId,
    pub(crate) request: u64,
    pub(crate) slot: u32,
    pub(crate) position: u32,
    /// The token, if the host knows it. Unless it is from the host, it is the last one sampled for the slot.
    pub(crate) token: Option<u32>,
    /// The host gives the device the token: the caller or the host chose it, or it may be that of a draft.
    pub(crate) from_host: bool,
    /// The draft tokens, at the positions behind.
    pub(crate) drafts: Vec<u32>,
    pub(crate) states: RunStates,
}

impl DecodeRow {
    /// Returns the number of rows, those of the draft included.
    pub(crate) fn rows(&self) -> u32 {
        1 + self.drafts.len() as u32
    }
}

/// A chunk of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrefillRows {
    pub(crate) sequence: SequenceId,
    pub(crate) request: u64,
    pub(crate) slot: u32,
    /// The position of the first row.
    pub(crate) position: u32,
    pub(crate) tokens: Vec<u32>,
    pub(crate) states: RunStates,
}

/// A row whose logits, or hidden state, are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogitRow {
    pub(crate) row: u32,
    pub(crate) sequence: SequenceId,
    pub(crate) request: u64,
    pub(crate) slot: u32,
    pub(crate) usage: LogitsUse,
    /// For the row of a draft token its number, from 1 on, and the token: what is sampled counts if the row before sampled it.
    pub(crate) draft: Option<(u32, u32)>,
}

impl LogitRow {
    /// Returns the number of draft tokens from the last known token to the row's own.
    pub(crate) fn draft_number(&self) -> u32 {
        self.draft.map_or(0, |(number, _)| number)
    }
}

/// The use of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogitsUse {
    /// A token is sampled for the slot.
    Sample,
    /// The session gets the logits.
    Return {
        /// They are the last of their request.
        last: bool,
    },
    /// The session gets the hidden state after the output norm; logits are not computed.
    Hidden {
        /// It is the last of its request.
        last: bool,
    },
}

/// How a token is sampled from a row's logits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowSampling<'a> {
    pub(crate) sampler: &'a Sampler,
    /// The tokens that are allowed, a bit each.
    pub(crate) mask: Option<&'a [u32]>,
    /// The logits are read back too, for log-probabilities.
    pub(crate) logprobs: bool,
    /// For requests with drafts, the tokens of the request that are sampled before: the device does not count their draws.
    pub(crate) drawn: Option<u64>,
}

/// What the executor computed for a step.
#[derive(Debug)]
pub(crate) struct StepOutput {
    pub(crate) step: StepId,
    /// The token sampled on the device for each row; `None` where every logit is NaN.
    pub(crate) tokens: Vec<(LogitRow, Option<u32>)>,
    /// The rows read back: hidden states for sessions, and logits for sessions, for log-probabilities, or to sample from on the
    /// host.
    pub(crate) read_back: Vec<(LogitRow, Vec<f32>)>,
}

impl StepPlan {
    /// Returns the number of rows.
    pub(crate) fn rows(&self) -> u32 {
        self.decode_rows() + self.prefill.iter().map(|rows| rows.tokens.len() as u32).sum::<u32>()
    }

    /// Returns the number of rows of `decode`.
    pub(crate) fn decode_rows(&self) -> u32 {
        self.decode.iter().map(DecodeRow::rows).sum()
    }

    /// Returns the requests with rows in the step.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (SequenceId, u64)> {
        let decode = self.decode.iter().map(|row| (row.sequence, row.request));
        decode.chain(self.prefill.iter().map(|rows| (rows.sequence, rows.request)))
    }

    /// Returns the sequences with rows in the step.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = SequenceId> {
        self.requests().map(|(sequence, _)| sequence)
    }

    /// Returns the rows a token is sampled from.
    pub(crate) fn sampled(&self) -> impl Iterator<Item = &LogitRow> {
        self.logit_rows.iter().filter(|row| row.usage == LogitsUse::Sample)
    }
}
