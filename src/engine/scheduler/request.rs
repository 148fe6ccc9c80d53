//! Requests: what a session asks for, and how it ends.

use crate::{
    engine::{Sampler, constraint::Constrained},
    kv::Tables,
};

/// A sequence of a [`Scheduler`](super::Scheduler). Ids are not reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SequenceId(pub(super) u64);

#[cfg(test)]
impl SequenceId {
    /// Returns an id of no scheduler.
    pub(crate) fn of(number: u64) -> Self {
        Self(number)
    }
}

/// The output of a request, which appends its tokens in any case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// The logits of the last token.
    LastLogits,
    /// The logits of the last token, computed by a decode pass.
    DecodeLogits,
    /// The logits of each of its tokens.
    AllLogits,
    /// The hidden state of the last token, after the output norm.
    LastHidden,
    /// The hidden state of each of its tokens, after the output norm.
    AllHidden,
    /// Tokens that continue it.
    Tokens {
        /// The most tokens. With none, the prompt is only computed.
        max_tokens: u32,
        /// Tokens that end it; they are not kept.
        stop_tokens: Vec<u32>,
    },
}

/// Why a reply is complete. The sequence then has all its tokens but the stop token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// This stop token was sampled.
    StopToken(u32),
    /// It has the most tokens asked for.
    MaxTokens,
    /// The context is full: the last token lies behind its end.
    ContextFull,
}

/// A waiting or running request.
#[derive(Debug)]
pub(super) struct Request {
    /// Requests are numbered in order of arrival.
    pub(super) number: u64,
    /// Tokens that its sequence had before.
    pub(super) start: u32,
    /// Positions that were computed before.
    pub(super) computed_before: u32,
    /// Tokens of the sequence with those of the request.
    pub(super) prompt_end: u32,
    pub(super) output: Output,
    /// The state of sampling as the host knows it, where tokens are sampled.
    pub(super) sampler: Option<Sampler>,
    /// The constraint of its tokens. Each is sampled once the one before it is known.
    pub(super) constrained: Option<Constrained>,
    /// How many log-probabilities are returned with each token.
    pub(super) logprobs: Option<u32>,
    /// The most draft tokens that prompt lookup finds for a step. With any, a token is sampled once the one before it is
    /// known, and the host gives the device all tokens.
    pub(super) drafts: u32,
    /// Its slot, while it runs.
    pub(super) slot: Option<u32>,
    /// The snapshot of states that its next row begins from; else a state of its slot.
    pub(super) snapshot: Option<u32>,
    /// The position of the snapshot that follows the reply: the next one takes its place.
    pub(super) reply_snapshot: Option<u32>,
    /// Tokens sampled by submitted rows; those behind a rejected draft token are not counted any more.
    pub(super) sampled: u32,
    /// Those of them that the host knows.
    pub(super) confirmed: u32,
}

impl Request {
    /// Returns whether rows of each of its tokens are returned, and so must be computed.
    pub(super) fn returns_each(&self) -> bool {
        matches!(self.output, Output::AllLogits | Output::AllHidden)
    }

    /// Returns the most tokens that it samples.
    pub(super) fn max_tokens(&self) -> u32 {
        match self.output {
            Output::Tokens { max_tokens, .. } => max_tokens,
            _ => 0,
        }
    }

    /// Returns the most positions that the sequence has at its end.
    pub(super) fn end(&self, context: u32) -> u32 {
        // The last sampled token is not computed.
        self.prompt_end.saturating_add(self.max_tokens().saturating_sub(1)).min(context)
    }

    /// Returns whether a step with its row is planned only once the host knows the token before.
    pub(super) fn needs_tokens(&self, masks_later: bool) -> bool {
        self.drafts > 0
            || (self.constrained.is_some() && !masks_later)
            || self.sampler.as_ref().is_some_and(Sampler::has_window)
            || self.samples_on_host()
    }

    /// Returns whether its tokens are sampled on the host, whatever the engine does.
    pub(super) fn samples_on_host(&self) -> bool {
        self.sampler.as_ref().is_some_and(|sampler| sampler.options().on_host())
    }

    /// Returns the end of its prefill rows.
    pub(super) fn prefill_end(&self) -> u32 {
        self.prompt_end - u32::from(self.output == Output::DecodeLogits)
    }

    /// Returns whether all prefill rows were submitted.
    pub(super) fn is_prefilled(&self, table: &Tables) -> bool {
        table.len() >= self.prefill_end()
    }

    /// Returns whether all its own tokens, and those before, were submitted.
    pub(super) fn has_prompt(&self, table: &Tables) -> bool {
        table.len() >= self.prompt_end
    }
}
