//! Continuous batching: chooses the rows of each step for all sequences together. Plain data, without a device.
//!
//! A sequence is idle or has one request. A request waits until it is admitted, and then runs in a slot. For each step,
//! the engine calls [`plan`], writes and submits what the plan asks for, and calls [`commit`]; when the host has read the
//! step's tokens, it calls [`finish_step`]. Sessions take their events with [`next_event`]; [`take_notified`] names the
//! sequences that got some.
//!
//! Only a commit advances a sequence, so that an abandoned step is planned again. Sequences may be cancelled, released or
//! forked between any two calls.
//!
//! Freed blocks may be used by the next step while the device still writes to them: the device runs steps in order.
//!
//! [`plan`]: Scheduler::plan
//! [`commit`]: Scheduler::commit
//! [`finish_step`]: Scheduler::finish_step
//! [`next_event`]: Scheduler::next_event
//! [`take_notified`]: Scheduler::take_notified

#[cfg(test)]
mod fake;
mod lookup;
mod mailbox;
mod plan;
#[cfg(test)]
mod property;
mod request;
mod results;
mod sequence;
mod states;
mod step;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

pub use lookup::LookupStats;
use mailbox::Mailbox;
pub(crate) use mailbox::SessionEvent;
pub use request::FinishReason;
pub(crate) use request::{Output, SequenceId};
use sequence::Sequence;
use states::SlotStates;
pub(crate) use states::StateLimits;
pub(crate) use step::{
    BlockTableUpdate, DecodeRow, LogitRow, LogitsUse, PrefillRows, RowSampling, RunStates, StaleStep, StepId,
    StepOutput, StepPlan,
};

use super::EngineError;
use crate::kv::{Pools, Snapshots};

/// The bounds of steps, and switches of scheduling.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Positions of a sequence.
    pub(crate) context: u32,
    /// Sequences that run at once; at least 1.
    pub(crate) slots: u32,
    /// Prefill rows of a step; at least 1.
    pub(crate) prefill_rows: u32,
    /// Rows of a step whose logits [`Output::AllLogits`] requests get together; at least 1.
    pub(crate) max_logit_rows: u32,
    /// Sequences with a common prefix share its blocks.
    pub(crate) prefix_sharing: bool,
    /// Blocks filled by decode passes are shared too: for kernels whose decode and prefill reduce in the same order, or
    /// callers who accept other rounding. Else a reply would depend on who computed its prompt first.
    pub(crate) share_decode_blocks: bool,
    /// A step is planned while the tokens of the one before are unknown.
    pub(crate) pipelined: bool,
    /// A step is planned while the masks of its tokens are unknown: its forward pass is computed before, and its sampling after
    /// the step before it is read.
    pub(crate) masks_later: bool,
    /// The most draft tokens of a sequence in a step, which prompt lookup finds; 0: none.
    pub(crate) drafts: u32,
    /// The states of recurrent layers, for models that have them.
    pub(crate) states: Option<StateLimits>,
}

/// All sequences and their requests, and the blocks of the KV cache.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pool: Pools,
    snapshots: Snapshots,
    sequences: BTreeMap<SequenceId, Sequence>,
    /// The sequences with a request, by its number: in order of arrival. Running ones come before waiting ones.
    requests: BTreeMap<u64, SequenceId>,
    slots: Vec<Slot>,
    /// The last planned step, until it is committed or abandoned.
    planned: Option<PlannedStep>,
    /// Steps whose sampled tokens the host does not know, oldest first.
    in_flight: VecDeque<StepId>,
    /// Sequences to be tried alone, after a step with others could not be prepared.
    retry_alone: VecDeque<SequenceId>,
    /// A sequence for each event sent since the last [`Scheduler::take_notified`].
    notified: Vec<SequenceId>,
    lookup: LookupStats,
    /// The number of the next sequence, request or step.
    next_number: u64,
}

/// The place of a running sequence's state on the device.
#[derive(Debug, Default)]
struct Slot {
    sequence: Option<SequenceId>,
    /// The block tables that the device has, by group of layers.
    blocks: Vec<Vec<u32>>,
    states: SlotStates,
}

/// A step that may still be committed.
#[derive(Debug)]
struct PlannedStep {
    step: StepId,
    /// The sequences that got blocks for it.
    sequences: Vec<SequenceId>,
    /// The slots and groups whose block tables it changes, and the first changed entries.
    block_tables: Vec<(u32, usize, u32)>,
    /// The snapshots that it stores, each with its sequence and position.
    snapshots: Vec<(SequenceId, u32, u32)>,
}

impl Scheduler {
    /// Returns a scheduler without sequences.
    pub(crate) fn new(limits: Limits, pool: Pools) -> Self {
        let groups = pool.groups().len();
        let slot = || Slot { blocks: vec![Vec::new(); groups], ..Slot::default() };
        Self {
            limits,
            pool,
            snapshots: Snapshots::new(limits.states.map_or(0, |states| states.snapshots)),
            sequences: BTreeMap::new(),
            requests: BTreeMap::new(),
            slots: (0..limits.slots.max(1)).map(|_| slot()).collect(),
            planned: None,
            in_flight: VecDeque::new(),
            retry_alone: VecDeque::new(),
            notified: Vec::new(),
            lookup: LookupStats::default(),
            next_number: 0,
        }
    }

    /// Sets the most prefill rows of a step, from the next one on.
    pub(crate) fn set_prefill_rows(&mut self, rows: u32) {
        self.limits.prefill_rows = rows;
    }

    /// Sets whether blocks filled by decode passes are shared. No block may hold anything.
    pub(crate) fn set_share_decode_blocks(&mut self, share: bool) {
        self.limits.share_decode_blocks = share;
    }

    /// Returns the blocks of the KV cache.
    pub(crate) fn pool(&self) -> &Pools {
        &self.pool
    }

    /// Returns the number of snapshots that prefixes can be continued from.
    pub(crate) fn valid_snapshots(&self) -> u32 {
        self.snapshots.valid(self.pool.full())
    }

    /// Returns the known tokens of a sequence: those of prompts, and sampled ones.
    pub(crate) fn tokens(&self, id: SequenceId) -> Option<&[u32]> {
        self.sequences.get(&id).map(|sequence| &*sequence.tokens)
    }

    /// Returns how a row's request samples; `None` where none samples, or the request is over: the sequence may have
    /// another one.
    pub(crate) fn sampling_of(&self, row: &LogitRow) -> Option<RowSampling<'_>> {
        let request = self.sequences.get(&row.sequence)?.request.as_ref()?;
        if row.usage != LogitsUse::Sample || row.request != request.number {
            return None;
        }
        let mask = request.constrained.as_ref().map(|constrained| constrained.mask());
        let tokens_before = row.draft_number();
        Some(RowSampling {
            sampler: request.sampler.as_ref()?,
            mask,
            logprobs: request.logprobs.is_some(),
            drawn: (request.drafts > 0).then(|| u64::from(request.confirmed + tokens_before)),
        })
    }

    /// Returns the counts of draft tokens so far.
    pub(crate) fn lookup(&self) -> LookupStats {
        self.lookup
    }

    /// Returns those of the last request of a sequence.
    pub(crate) fn lookup_of(&self, id: SequenceId) -> LookupStats {
        self.sequences.get(&id).map(|sequence| sequence.lookup).unwrap_or_default()
    }

    /// Returns whether a sequence has a request, or events of one that the session has not taken.
    #[cfg(test)]
    pub(crate) fn is_busy(&self, id: SequenceId) -> bool {
        self.sequences.get(&id).is_some_and(Sequence::is_busy)
    }

    /// Returns the number of waiting and running requests.
    pub(crate) fn requests(&self) -> usize {
        self.requests.len()
    }

    /// Returns the number of steps whose sampled tokens the host does not know.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Removes and returns the oldest event of a sequence.
    pub(crate) fn next_event(&mut self, id: SequenceId) -> Option<SessionEvent> {
        self.sequences.get_mut(&id).and_then(|sequence| sequence.mailbox.take())
    }

    /// Returns a sequence for each event sent since the last call, in order.
    pub(crate) fn take_notified(&mut self) -> Vec<SequenceId> {
        std::mem::take(&mut self.notified)
    }

    /// Sends an event to the session of a sequence, if there is one.
    fn send(&mut self, id: SequenceId, event: SessionEvent) {
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.mailbox.send(event);
            self.notified.push(id);
        }
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn add(&mut self, sequence: Sequence) -> SequenceId {
        let id = SequenceId(self.number());
        self.sequences.insert(id, sequence);
        id
    }

    /// Returns a sequence without a request.
    fn idle(&mut self, id: SequenceId) -> Result<&mut Sequence, EngineError> {
        match self.sequences.get_mut(&id) {
            None => Err(EngineError::NoRequest),
            Some(sequence) if sequence.is_busy() => Err(EngineError::Busy),
            Some(sequence) => Ok(sequence),
        }
    }
}
