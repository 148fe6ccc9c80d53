//! The states of recurrent layers: which slot of states each run of rows begins from, and where it stores its own.
//!
//! A running sequence has two slots of states, which it writes in turn: a step that is abandoned, fails, or was computed in
//! vain leaves the state before it. It has one more for each draft token of a step, and goes on from that of the last one
//! accepted: storing a state costs a fraction of computing a token again. A sequence that finds neither begins from the last
//! snapshot of its prefix: its table is shortened to it, and what follows is computed again.
//!
//! Snapshots are taken at multiples of the spacing, at a prompt's last block before its last token, whose logits a repeated
//! prompt needs, and at the last block of prompt and reply while the reply grows: one that moves with it. A run that ends at
//! a snapshot stores its state there only, so that these cost nothing. What decode steps fill has one only where
//! others may find it, and those with draft tokens have none.

use super::{RunStates, Scheduler, SequenceId, Slot, StepPlan};

/// The bounds of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateLimits {
    /// Snapshots that are kept.
    pub(crate) snapshots: u32,
    /// Positions between snapshots: a multiple of the tokens of a block.
    pub(crate) spacing: u32,
}

impl StateLimits {
    /// Returns the slots of states, for so many sequences that run at once, with so many draft tokens in a step.
    pub(crate) fn slots(snapshots: u32, sequences: u32, drafts: u32) -> u32 {
        sequences.saturating_mul(of_sequence(drafts)).saturating_add(snapshots)
    }
}

/// Returns the slots of states of a running sequence.
fn of_sequence(drafts: u32) -> u32 {
    drafts.saturating_add(2)
}

/// The slots of states of a running sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct SlotStates {
    /// The sequence whose states they are, which may be idle.
    owner: Option<SequenceId>,
    /// The position of each state; `None`: it is of no use.
    positions: Vec<Option<u32>>,
}

impl SlotStates {
    /// Returns which of them is the state of a sequence at a position.
    fn find(&self, id: SequenceId, position: u32) -> Option<usize> {
        let found = self.positions.iter().position(|at| *at == Some(position));
        found.filter(|_| self.owner == Some(id))
    }

    /// Forgets the states.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

impl Scheduler {
    /// Returns a free slot for a sequence with `len` computed positions: the one that has its state, or else one without.
    pub(super) fn free_slot(&self, id: SequenceId, len: u32) -> Option<usize> {
        let free = self.slots.iter().enumerate().filter(|(_, slot)| slot.sequence.is_none());
        let rank = |slot: &Slot| match slot.states.owner {
            _ if slot.states.find(id, len).is_some() => 0,
            None => 1,
            Some(owner) if owner == id => 2,
            Some(_) => 3,
        };
        free.min_by_key(|(_, slot)| rank(slot)).map(|(slot, _)| slot)
    }

    /// Finds the state that a sequence continues from in `slot`, and shortens its table to the position of that state.
    pub(super) fn resume(&mut self, id: SequenceId, slot: usize) {
        if self.limits.states.is_none() {
            return;
        }
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let len = sequence.table.len();
        let own = self.slots[slot].states.find(id, len);
        for states in self.slots.iter_mut().map(|slot| &mut slot.states).filter(|states| states.owner == Some(id)) {
            states.forget();
        }
        let states = &mut self.slots[slot].states;
        *states = SlotStates { owner: Some(id), positions: vec![None; of_sequence(self.limits.drafts) as usize] };
        if let Some(own) = own {
            states.positions[own] = Some(len);
            return;
        }
        let (len, snapshot) = match self.snapshots.adopt(self.pool.full(), sequence.table.full()) {
            Some((len, snapshot)) => (len, Some(snapshot)),
            None => (0, None),
        };
        sequence.truncate(&mut self.pool, len);
        let len = sequence.table.len();
        let Some(request) = &mut sequence.request else { return };
        request.computed_before = request.computed_before.min(len);
        request.snapshot = snapshot;
        if len == 0 {
            // The blocks of a window before the snapshot were given back.
            self.drop_snapshot(id);
        }
    }

    /// Undoes [`Scheduler::resume`] for a sequence that gets no slot.
    pub(super) fn drop_snapshot(&mut self, id: SequenceId) {
        let request = self.sequences.get_mut(&id).and_then(|sequence| sequence.request.as_mut());
        if let Some(snapshot) = request.and_then(|request| request.snapshot.take()) {
            self.snapshots.drop_holder(snapshot);
        }
    }

    /// Plans the states of a run of `rows` rows of a sequence in `slot`: the state after the last row is stored, or those after
    /// `each`.
    pub(super) fn plan_states(
        &mut self,
        id: SequenceId,
        slot: u32,
        rows: u32,
        each: bool,
        snapshots: &mut Planned,
    ) -> RunStates {
        let (Some(limits), Some(sequence)) = (self.limits.states, self.sequences.get(&id)) else {
            return RunStates::default();
        };
        let Some(request) = &sequence.request else { return RunStates::default() };
        let (prompt_end, last_of_reply) = (request.prompt_end, request.reply_snapshot);
        let (block, first) = (self.pool.block(), sequence.table.len());
        let end = first + rows;
        // Prompts are often continued in another way than they end: by the next turn of a conversation.
        let last_of_prompt = (prompt_end - 1) / block * block;
        let count = of_sequence(self.limits.drafts);
        let (first_snapshot, states) = (count * self.slots.len() as u32, &mut self.slots[slot as usize].states);
        let own = states.find(id, first);
        let from = match (request.snapshot, own) {
            _ if first == 0 => None,
            (Some(snapshot), _) => Some(first_snapshot + snapshot),
            (None, Some(own)) => Some(count * slot + own as u32),
            // It was resumed from one of them.
            (None, None) => return RunStates::default(),
        };
        let others = (0..).zip(&mut states.positions).filter(|(i, _)| Some(*i) != own);
        let stored = if each { 0..rows } else { rows - 1..rows };
        let mut to = Vec::new();
        for (row, (other, position)) in stored.zip(others) {
            *position = None;
            to.push((row, count * slot + other as u32));
        }
        let borders = (first / block + 1)..=(end / block);
        for position in borders.map(|border| border * block) {
            if position % limits.spacing != 0 && position != last_of_prompt {
                // Draft tokens may be rejected.
                let found = if each { self.limits.share_decode_blocks && rows == 1 } else { position == prompt_end };
                // A single snapshot is that of the prompt.
                if limits.snapshots < 2 || position < prompt_end || !found {
                    continue;
                }
                if let (Some(before), Some(sequence)) = (last_of_reply, self.sequences.get(&id)) {
                    self.snapshots.detach(self.pool.full(), sequence.table.full(), before);
                }
            }
            let Some(snapshot) = self.snapshots.take() else { break };
            snapshots.push((id, position, snapshot));
            // A row stores its state once: a run that ends with a snapshot is continued from it.
            to.retain(|(row, _)| row + 1 != position - first);
            to.push((position - first - 1, first_snapshot + snapshot));
        }
        to.sort_unstable();
        RunStates { from, to }
    }

    /// Takes in that a step is submitted: its rows have stored their states.
    pub(super) fn commit_states(&mut self, step: &StepPlan, planned: Planned) {
        if self.limits.states.is_none() {
            return;
        }
        let decode =
            step.decode.iter().map(|row| (row.sequence, row.request, row.slot, row.position, row.rows(), &row.states));
        let prefill = step
            .prefill
            .iter()
            .map(|run| (run.sequence, run.request, run.slot, run.position, run.tokens.len() as u32, &run.states));
        let count = of_sequence(self.limits.drafts);
        let mut attached = Vec::new();
        for (id, number, slot, position, rows, states) in decode.chain(prefill) {
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            let Some(request) = sequence.request.as_mut().filter(|request| request.number == number) else { continue };
            let end = position + rows;
            for (row, to) in &states.to {
                let own = to.checked_sub(count * slot).filter(|own| *own < count);
                let states = &mut self.slots[slot as usize].states;
                if let Some(own) = own.and_then(|own| states.positions.get_mut(own as usize)) {
                    *own = Some(position + row + 1);
                }
            }
            if let Some(snapshot) = request.snapshot.take() {
                self.snapshots.drop_holder(snapshot);
            }
            for &(_, at, snapshot) in planned.iter().filter(|(of, ..)| *of == id) {
                attached.push((id, at, snapshot));
                if at >= request.prompt_end && self.limits.states.is_some_and(|limits| at % limits.spacing != 0) {
                    request.reply_snapshot = Some(at);
                }
                if at == end {
                    request.snapshot = Some(snapshot);
                    self.snapshots.hold(snapshot);
                }
            }
        }
        for (_, _, snapshot) in &planned {
            self.snapshots.drop_holder(*snapshot);
        }
        for (id, at, snapshot) in attached {
            if let Some(sequence) = self.sequences.get(&id) {
                self.snapshots.attach(snapshot, self.pool.full(), sequence.table.full(), at);
            }
        }
    }

    /// Gives back the snapshots of an abandoned step.
    pub(super) fn abandon_states(&mut self, planned: Planned) {
        planned.into_iter().for_each(|(_, _, snapshot)| self.snapshots.drop_holder(snapshot));
    }

    /// Forgets the states of a sequence behind its first `len` positions: others may follow these.
    pub(super) fn keep_states(&mut self, id: SequenceId, len: u32) {
        for states in self.slots.iter_mut().map(|slot| &mut slot.states).filter(|states| states.owner == Some(id)) {
            states.positions.iter_mut().for_each(|position| *position = position.filter(|at| *at <= len));
        }
    }

    /// Forgets the states of a sequence that is released.
    pub(super) fn release_states(&mut self, id: SequenceId) {
        for states in self.slots.iter_mut().map(|slot| &mut slot.states).filter(|states| states.owner == Some(id)) {
            states.forget();
        }
    }
}

/// The snapshots of a planned step: sequence, position, snapshot.
pub(super) type Planned = Vec<(SequenceId, u32, u32)>;
