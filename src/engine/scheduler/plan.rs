//! Planning: the choice of the next step's rows.

use super::{
    BlockTableUpdate, DecodeRow, LogitRow, LogitsUse, Output, PlannedStep, PrefillRows, Scheduler, SequenceId,
    SessionEvent, Slot, StepId, StepPlan, lookup, sequence::Sequence, states::Planned,
};
use crate::{
    engine::EngineError,
    kv::{Full, Tables},
};

impl Scheduler {
    /// Plans the next step: a row for each sequence in its decode phase, and prefill rows in order of arrival. Returns
    /// `None` when there are no rows, or the most steps are in flight: then [`Self::finish_step`] comes first. Requests that
    /// no step can serve fail.
    ///
    /// A step that was planned before and not committed is abandoned.
    pub(crate) fn plan(&mut self) -> Option<StepPlan> {
        self.abandon_planned();
        if !self.may_plan() {
            return None;
        }
        while let Some(id) = self.retry_alone.pop_front() {
            if let Some(step) = self.plan_rows(Some(id)) {
                return Some(step);
            }
        }
        loop {
            let step = self.plan_rows(None);
            if step.is_some() || !self.in_flight.is_empty() || !self.fail_for_lack_of_blocks() {
                return step;
            }
        }
    }

    /// Plans a step with rows of one sequence only. Returns `None` also when other sequences have the slots or blocks.
    pub(crate) fn plan_alone(&mut self, id: SequenceId) -> Option<StepPlan> {
        self.abandon_planned();
        if self.may_plan() { self.plan_rows(Some(id)) } else { None }
    }

    fn may_plan(&self) -> bool {
        // While sequences decode in every step, they stay in the same steps.
        self.in_flight.len() <= usize::from(self.limits.pipelined)
    }

    /// Plans the rows of a step, of all sequences or of one.
    fn plan_rows(&mut self, only: Option<SequenceId>) -> Option<StepPlan> {
        let id = StepId(self.number());
        let mut step = StepPlan {
            id,
            block_copies: Vec::new(),
            block_tables: Vec::new(),
            decode: Vec::new(),
            prefill: Vec::new(),
            logit_rows: Vec::new(),
            masks_later: false,
        };
        let running = |slots: &[Slot]| slots.iter().filter(|slot| slot.sequence.is_some()).count();
        let mut snapshots = Planned::new();
        loop {
            let before = (running(&self.slots), self.pool.free());
            self.admit_single_tokens(only);
            self.plan_decode(&mut step, &mut snapshots, only);
            self.plan_prefill(&mut step, &mut snapshots, only);
            if step.rows() > 0 {
                break;
            }
            // A request whose prefill rows were all found in the cache has a row only once it runs. One that lacks the state of
            // its positions has given back their blocks.
            if (running(&self.slots), self.pool.free()) == before {
                return None;
            }
        }
        let waits = |row: &LogitRow| {
            let request = self.sequences.get(&row.sequence).and_then(|sequence| sequence.request.as_ref());
            request.is_some_and(|request| request.constrained.is_some() && request.confirmed < request.sampled)
        };
        let masks_later = step.sampled().any(waits);
        step.masks_later = masks_later;
        let sequences = step.sequences().collect();
        let block_tables = step.block_tables.iter().map(|table| (table.slot, table.group, table.first)).collect();
        self.planned = Some(PlannedStep { step: id, sequences, block_tables, snapshots });
        Some(step)
    }

    /// Abandons a step that the device has not taken. It is planned again, unless something else is due then.
    #[cfg(test)]
    pub(crate) fn abandon(&mut self, step: &StepPlan) {
        if self.planned.as_ref().is_some_and(|planned| planned.step == step.id) {
            self.abandon_planned();
        }
    }

    /// Gives back the blocks of the planned step.
    fn abandon_planned(&mut self) {
        let Some(planned) = self.planned.take() else { return };
        self.abandon_states(planned.snapshots);
        for (slot, group, first) in planned.block_tables {
            // The device may have got the changes or not.
            self.slots[slot as usize].blocks[group].truncate(first as usize);
        }
        for id in planned.sequences {
            if let Some(sequence) = self.sequences.get_mut(&id) {
                let len = sequence.table.len();
                sequence.truncate(&mut self.pool, len);
            }
        }
    }

    /// Gives slots to requests without prefill rows: those of a single decode token.
    fn admit_single_tokens(&mut self, only: Option<SequenceId>) {
        let requests: Vec<_> = self.requests.values().take(self.slots.len()).copied().collect();
        for id in requests {
            let Some(sequence) = self.sequences.get(&id) else { continue };
            let Some(request) = &sequence.request else { continue };
            if request.slot.is_some() {
                continue;
            }
            if is_other(only, id) || !request.is_prefilled(&sequence.table) || self.admit(id, 1).is_none() {
                // Later requests wait.
                break;
            }
        }
    }

    /// Plans a row for each sequence in its decode phase that gets a block for it, and rows for its draft. One without a block
    /// pauses.
    fn plan_decode(&mut self, step: &mut StepPlan, snapshots: &mut Planned, only: Option<SequenceId>) {
        let requests: Vec<_> = self.requests.iter().map(|(number, id)| (*number, *id)).collect();
        for (number, id) in requests {
            let Some(sequence) = self.sequences.get(&id) else { continue };
            let Some(request) = &sequence.request else { continue };
            let Some(slot) = request.slot else { break };
            if is_other(only, id) {
                continue;
            }
            let position = sequence.table.len();
            let drafts = request.drafts;
            let forced = request.output == Output::DecodeLogits;
            let due = if forced {
                request.is_prefilled(&sequence.table) && !request.has_prompt(&sequence.table)
            } else {
                request.has_prompt(&sequence.table)
                    && request.sampled < request.max_tokens()
                    && position < self.limits.context
                    && (!request.needs_tokens(self.limits.masks_later) || request.confirmed == request.sampled)
            };
            if !due {
                continue;
            }
            let most = drafts.min(request.max_tokens().saturating_sub(request.sampled + 1));
            let from_host = forced || drafts > 0 || request.samples_on_host();
            self.reclaim(id, 1, 0);
            let drafts = match self.draft_room(id, most) {
                0 => Vec::new(),
                room => self.sequences.get(&id).map_or_else(Vec::new, |of| lookup::draft(&of.tokens, room as usize)),
            };
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            let rows = 1 + drafts.len() as u32;
            let Ok(copies) = self.pool.grow(&mut sequence.table, rows) else { continue };
            let token = sequence.tokens.get(position as usize).copied();
            step.block_copies.extend(copies);
            step.block_tables.extend(changed_blocks(slot, &self.slots[slot as usize].blocks, &sequence.table));
            let row = step.decode_rows();
            let usage = if forced { LogitsUse::Return { last: true } } else { LogitsUse::Sample };
            let of_row = LogitRow { row, sequence: id, request: number, slot, usage, draft: None };
            step.logit_rows.push(of_row);
            step.logit_rows.extend((1..).zip(&drafts).map(|(i, draft)| {
                let draft = Some((i, *draft));
                LogitRow { row: row + i, draft, ..of_row }
            }));
            let states = self.plan_states(id, slot, rows, true, snapshots);
            let (sequence, request) = (id, number);
            step.decode.push(DecodeRow { sequence, request, slot, position, token, from_host, drafts, states });
        }
    }

    /// Returns how many draft tokens a sequence may have, at most `most`: they take no blocks that other sequences may need.
    fn draft_room(&self, id: SequenceId, most: u32) -> u32 {
        let Some(Sequence { table, .. }) = self.sequences.get(&id).filter(|_| most > 0) else { return 0 };
        let position = table.len();
        let mut room = most.min(self.pool.fits(table, self.reserve(id, true)).saturating_sub(1));
        room = room.min(self.limits.context.saturating_sub(position + 1));
        if let Some(states) = self.limits.states.filter(|states| states.snapshots > 0) {
            // A snapshot is of a known prefix: it is taken after the first row of a step.
            let border = (position / states.spacing + 1).saturating_mul(states.spacing);
            room = room.min((border - position - 1).saturating_sub(1));
        }
        room
    }

    /// Plans prefill rows, in order of arrival. A request that lacks blocks has taken all but those reserved for decoding,
    /// so that later ones get none, and no slot.
    fn plan_prefill(&mut self, step: &mut StepPlan, snapshots: &mut Planned, only: Option<SequenceId>) {
        let mut rows_left = self.limits.prefill_rows.max(1);
        let mut logits_left = self.limits.max_logit_rows.max(1);
        // No more can run.
        let requests: Vec<_> = self.requests.iter().take(self.slots.len()).map(|(number, id)| (*number, *id)).collect();
        for (number, id) in requests {
            if rows_left == 0 {
                break;
            }
            let Some(sequence) = self.sequences.get(&id) else { continue };
            let Some(request) = &sequence.request else { continue };
            if is_other(only, id) || request.is_prefilled(&sequence.table) {
                if request.slot.is_none() {
                    // Later requests wait, so that running ones stay before waiting ones.
                    break;
                }
                continue;
            }
            let all_logits = request.output == Output::AllLogits;
            let (start, prefill_end) = (request.start, request.prefill_end());
            let slot = match request.slot {
                Some(slot) => slot,
                None => match self.admit(id, rows_left) {
                    Some(slot) => slot,
                    None => break,
                },
            };
            // Decoding sequences come first, in the next step too.
            let reserve = self.reserve(id, true);
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            let position = sequence.table.len();
            let mut rows = (prefill_end - position).min(rows_left);
            if all_logits {
                rows = rows.min(start.saturating_sub(position).saturating_add(logits_left));
            }
            if position == prefill_end {
                // All of them were found in the cache.
                continue;
            }
            if rows == 0 {
                break;
            }
            self.reclaim(id, rows, reserve);
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            rows = rows.min(self.pool.fits(&sequence.table, reserve));
            if rows == 0 {
                continue;
            }
            let Ok(copies) = self.pool.grow(&mut sequence.table, rows) else { break };
            let end = position + rows;
            step.block_copies.extend(copies);
            step.block_tables.extend(changed_blocks(slot, &self.slots[slot as usize].blocks, &sequence.table));
            let first_row = step.rows();
            for at in position..end {
                let last = at + 1 == prefill_end;
                let usage = match sequence.request.as_ref().map(|request| &request.output) {
                    Some(Output::AllLogits) if at >= start => LogitsUse::Return { last },
                    Some(Output::LastLogits) if last => LogitsUse::Return { last },
                    Some(Output::AllHidden) if at >= start => LogitsUse::Hidden { last },
                    Some(Output::LastHidden) if last => LogitsUse::Hidden { last },
                    Some(Output::Tokens { max_tokens: 1.., .. }) if last => LogitsUse::Sample,
                    _ => continue,
                };
                logits_left -= u32::from(all_logits);
                let row = first_row + at - position;
                step.logit_rows.push(LogitRow { row, sequence: id, request: number, slot, usage, draft: None });
            }
            rows_left -= rows;
            let tokens = sequence.tokens[position as usize..end as usize].to_vec();
            let states = self.plan_states(id, slot, rows, false, snapshots);
            step.prefill.push(PrefillRows { sequence: id, request: number, slot, position, tokens, states });
        }
    }

    /// Admits a request, if a slot is free, and blocks for its next rows and for each running sequence: one each. Returns the
    /// slot.
    fn admit(&mut self, id: SequenceId, rows: u32) -> Option<u32> {
        let slot = self.free_slot(id, self.sequences.get(&id)?.table.len())?;
        let growing = self.reserve(id, false);
        let Sequence { tokens, table, request, .. } = self.sequences.get_mut(&id)?;
        let request = request.as_mut()?;
        if self.limits.prefix_sharing && table.is_empty() {
            // Rows that are returned must be computed.
            let end = if request.returns_each() { request.start + 1 } else { request.prompt_end };
            *table = self.pool.adopt(&tokens[..end as usize]);
        }
        self.resume(id, slot);
        let Sequence { table, request, .. } = self.sequences.get(&id)?;
        let rows = rows.min(request.as_ref()?.prompt_end - table.len());
        self.reclaim(id, rows, growing);
        let Sequence { table, prefilled_len, published_blocks, request, .. } = self.sequences.get_mut(&id)?;
        let request = request.as_mut()?;
        let cached = table.len() - request.computed_before;
        if self.pool.lack(table, rows, growing).is_some() {
            self.pool.truncate(table, request.computed_before);
            self.drop_snapshot(id);
            return None;
        }
        if cached > 0 {
            (*prefilled_len, *published_blocks) = (table.len(), table.len() / self.pool.block());
        }
        request.slot = Some(slot as u32);
        self.slots[slot].sequence = Some(id);
        self.send(id, SessionEvent::Admitted { cached });
        Some(slot as u32)
    }

    /// Returns how many other running sequences may need more blocks; with `decoding`, only those in their decode phase.
    fn reserve(&self, id: SequenceId, decoding: bool) -> u32 {
        let may_grow = |other: &&SequenceId| {
            self.sequences.get(other).is_some_and(|sequence| {
                sequence.request.as_ref().is_some_and(|request| {
                    let room = sequence.table.full().blocks().len() as u64 * u64::from(self.pool.block());
                    (!decoding || request.has_prompt(&sequence.table))
                        && u64::from(request.end(self.limits.context)) > room
                })
            })
        };
        let running = self.slots.iter().filter_map(|slot| slot.sequence.as_ref());
        running.filter(|other| **other != id).filter(may_grow).count() as u32
    }

    /// Frees blocks of a window's pool for `rows` more rows of a sequence: other sequences that do not run give back all blocks
    /// and are computed again with their next request, idle ones first. The pool has enough for those that run.
    fn reclaim(&mut self, id: SequenceId, rows: u32, reserve: u32) {
        while let Some(sequence) = self.sequences.get(&id) {
            let lack = self.pool.lack_of_window(&sequence.table, rows, reserve);
            let Some(group) = lack else { return };
            let waits = |sequence: &Sequence| sequence.request.as_ref().is_some_and(|request| request.slot.is_none());
            let others = self.sequences.iter().filter(|(other, sequence)| {
                let runs = sequence.request.is_some() && !waits(sequence);
                **other != id && !runs && !sequence.table.group(group).held().is_empty()
            });
            let Some((&other, _)) = others.min_by_key(|(_, other)| (waits(other), other.last_used)) else { return };
            if let Some(sequence) = self.sequences.get_mut(&other) {
                sequence.truncate(&mut self.pool, 0);
                if let Some(request) = &mut sequence.request {
                    request.computed_before = 0;
                }
            }
            self.keep_states(other, 0);
        }
    }

    /// Fails one request, when none can go on. Returns whether there was one.
    ///
    /// It is the youngest whose end frees blocks. If there is none, idle sequences hold the blocks, and the oldest request
    /// fails: failing a younger one would not help.
    fn fail_for_lack_of_blocks(&mut self) -> bool {
        let frees_blocks = |id: &&SequenceId| {
            self.sequences.get(id).is_some_and(|Sequence { table, request, .. }| {
                let before = request.as_ref().map_or(0, |request| request.computed_before);
                table.full().blocks().len() > before.div_ceil(self.pool.block()) as usize
            })
        };
        let youngest = self.requests.values().rev().find(frees_blocks);
        let Some(&id) = youngest.or(self.requests.values().next()) else { return false };
        let Some(sequence) = self.sequences.get_mut(&id) else { return false };
        let Some(request) = &sequence.request else { return false };
        let rows = request.prompt_end.saturating_sub(sequence.table.len()).max(1);
        let lack = self.pool.lack(&sequence.table, rows, 0);
        let (_, Full { needed, free }) = lack.unwrap_or((0, Full { needed: 0, free: self.pool.full().free() }));
        let before = request.computed_before;
        sequence.truncate(&mut self.pool, before);
        self.fail(id, EngineError::PoolFull { needed, free });
        true
    }
}

/// Returns whether a step, which may be of one sequence only, excludes a sequence.
fn is_other(only: Option<SequenceId>, id: SequenceId) -> bool {
    only.is_some_and(|only| only != id)
}

/// Returns the entries of a slot's block tables that the device does not have.
fn changed_blocks(slot: u32, old: &[Vec<u32>], tables: &Tables) -> impl Iterator<Item = BlockTableUpdate> {
    old.iter().enumerate().filter_map(move |(group, old)| {
        let new = tables.group(group).blocks();
        let first = old.iter().zip(new).take_while(|(old, new)| old == new).count();
        let blocks = new[first..].to_vec();
        (!blocks.is_empty()).then_some(BlockTableUpdate { slot, group, first: first as u32, blocks })
    })
}
