//! Which rows the next step computes, for all sequences together: plain data, without a device.
//!
//! A sequence is idle, or has one request, which waits until it is admitted, and then runs in a slot. A turn is: [`plan`]
//! a step, write what it needs and submit it, [`commit`] it; later, when the host has read its tokens, tell what was
//! [`drawn`], and deliver the [`events`]. Only a commit moves a sequence on, so that a step which is abandoned, or dropped
//! with the future that had it, is planned again; what happens to its sequences in between is allowed for.
//!
//! What is freed can be used by the next step while the device still writes there: it runs steps in their order.
//!
//! [`plan`]: Scheduler::plan
//! [`commit`]: Scheduler::commit
//! [`drawn`]: Scheduler::drawn
//! [`events`]: Scheduler::take_events

#[cfg(test)]
mod fake;
mod plan;
#[cfg(test)]
mod property;
mod request;
mod results;
mod sequence;
mod step;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

pub(crate) use request::{End, Event, Refusal, SequenceId, Want};
use sequence::Sequence;
pub(crate) use step::{DecodeRow, Give, Pick, PromptRows, SlotBlocks, Stale, Step, StepId};

use crate::kv::Pool;

/// What steps are bound by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Positions of a sequence.
    pub(crate) context: u32,
    /// Sequences that can run at once; at least 1.
    pub(crate) slots: u32,
    /// Rows of prompts in a step; at least 1.
    pub(crate) prefill_rows: u32,
    /// Rows of a step whose logits requests for [`Want::Each`] may have together; at least 1.
    pub(crate) logit_rows: u32,
    /// Sequences with a common beginning share its blocks.
    pub(crate) sharing: bool,
    /// Blocks with rows that were computed one by one are shared too: for kernels that sum drawn rows and prompts' rows in
    /// one order, or callers who do not mind another. Else what a prompt is computed from would depend on who was first.
    pub(crate) share_drawn: bool,
    /// A step is planned while the tokens of the one before are unknown.
    pub(crate) run_ahead: bool,
}

/// All sequences, and the blocks of their KV cache.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: Limits,
    pool: Pool,
    sequences: BTreeMap<SequenceId, Sequence>,
    /// The sequences with a request, by its number: in order of arrival. Those that run are before those that wait.
    requests: BTreeMap<u64, SequenceId>,
    slots: Vec<Slot>,
    /// The last step that was planned, while it is neither committed nor abandoned.
    planned: Option<Planned>,
    /// Steps whose tokens the host does not know, oldest first.
    flights: VecDeque<Flight>,
    events: Vec<Event>,
    /// The number of the next sequence, request or step.
    next_number: u64,
}

/// A place for a sequence's state on the device.
#[derive(Debug, Default)]
struct Slot {
    sequence: Option<SequenceId>,
    /// The blocks that the device was given last.
    blocks: Vec<u32>,
}

/// A step that may still be committed.
#[derive(Debug)]
struct Planned {
    step: StepId,
    /// Those that were given room.
    sequences: Vec<SequenceId>,
    /// Slots whose lists of blocks it changes, and from where on.
    lists: Vec<(u32, u32)>,
}

/// A committed step: the sequences for which it draws, with the numbers of the requests.
#[derive(Debug)]
struct Flight {
    step: StepId,
    draws: Vec<(SequenceId, u64)>,
}

impl Scheduler {
    /// No sequences, in a cache of these blocks.
    pub(crate) fn new(limits: Limits, pool: Pool) -> Self {
        Self {
            limits,
            pool,
            sequences: BTreeMap::new(),
            requests: BTreeMap::new(),
            slots: (0..limits.slots.max(1)).map(|_| Slot::default()).collect(),
            planned: None,
            flights: VecDeque::new(),
            events: Vec::new(),
            next_number: 0,
        }
    }

    /// Changes how many rows of prompts a step may have, from the next one on.
    pub(crate) fn set_prefill_rows(&mut self, rows: u32) {
        self.limits.prefill_rows = rows;
    }

    /// Changes whether blocks with drawn rows are shared; for when no block has anything in it.
    pub(crate) fn set_share_drawn(&mut self, share: bool) {
        self.limits.share_drawn = share;
    }

    /// The blocks, to ask how many are free.
    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The tokens of a sequence that are known: those of prompts, and drawn ones.
    pub(crate) fn tokens(&self, id: SequenceId) -> Option<&[u32]> {
        self.sequences.get(&id).map(|sequence| &*sequence.tokens)
    }

    /// Whether a sequence has a request.
    #[cfg(test)]
    pub(crate) fn is_busy(&self, id: SequenceId) -> bool {
        self.sequences.get(&id).is_some_and(|sequence| sequence.request.is_some())
    }

    /// Requests that wait or run.
    pub(crate) fn requests(&self) -> usize {
        self.requests.len()
    }

    /// Steps whose tokens the host does not know yet.
    #[cfg(test)]
    pub(crate) fn under_way(&self) -> usize {
        self.flights.len()
    }

    /// What has happened since the last call, in order.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
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

    /// A sequence that has no request.
    fn idle(&mut self, id: SequenceId) -> Result<&mut Sequence, Refusal> {
        match self.sequences.get_mut(&id) {
            None => Err(Refusal::Unknown),
            Some(Sequence { request: Some(_), .. }) => Err(Refusal::Busy),
            Some(sequence) => Ok(sequence),
        }
    }
}
