//! The choice of the next step's rows.

use super::{
    DecodeRow, End, Event, Give, Pick, Planned, PromptRows, Scheduler, SequenceId, Slot, SlotBlocks, Step, StepId,
    Want, sequence::Sequence,
};

impl Scheduler {
    /// The rows to compute next: one for each sequence that draws, and rows of prompts in order of arrival. `None` when
    /// there are none, or when as many steps are under way as may be: then [`Self::drawn`] comes first. Requests that no
    /// step can serve end with an event.
    ///
    /// A step that was planned before and not committed is abandoned.
    pub(crate) fn plan(&mut self) -> Option<Step> {
        self.abandon_planned();
        if !self.may_plan() {
            return None;
        }
        loop {
            let step = self.plan_rows(None);
            if step.is_some() || !self.flights.is_empty() || !self.end_for_want_of_blocks() {
                return step;
            }
        }
    }

    /// As [`Self::plan`], with rows of one sequence only. `None` too when others, or blocks, are in its way.
    pub(crate) fn plan_alone(&mut self, id: SequenceId) -> Option<Step> {
        self.abandon_planned();
        if self.may_plan() { self.plan_rows(Some(id)) } else { None }
    }

    /// Whether no more steps are under way than may be for another.
    pub(crate) fn may_plan(&self) -> bool {
        // While sequences draw in every step, they stay in the same steps.
        self.flights.len() <= usize::from(self.limits.run_ahead)
    }

    /// The rows of a step, of all sequences or of one.
    fn plan_rows(&mut self, only: Option<SequenceId>) -> Option<Step> {
        let id = StepId(self.number());
        let mut step = Step {
            id,
            copies: Vec::new(),
            blocks: Vec::new(),
            decode: Vec::new(),
            prompts: Vec::new(),
            picks: Vec::new(),
        };
        let running = |slots: &[Slot]| slots.iter().filter(|slot| slot.sequence.is_some()).count();
        loop {
            let before = running(&self.slots);
            self.admit_single_tokens(only);
            self.plan_decode(&mut step, only);
            self.plan_prompts(&mut step, only);
            if step.rows() > 0 {
                break;
            }
            // One whose prompt's rows were all found in the cache has a row only now that it runs.
            if running(&self.slots) == before {
                return None;
            }
        }
        let sequences = step.sequences().collect();
        let lists = step.blocks.iter().map(|list| (list.slot, list.first)).collect();
        self.planned = Some(Planned { step: id, sequences, lists });
        Some(step)
    }

    /// The device has not taken a step. It will be planned again, unless something else is to be done then.
    #[cfg(test)]
    pub(crate) fn abandon(&mut self, step: &Step) {
        if self.planned.as_ref().is_some_and(|planned| planned.step == step.id) {
            self.abandon_planned();
        }
    }

    /// Gives back the room for the step that was planned.
    fn abandon_planned(&mut self) {
        let Some(planned) = self.planned.take() else { return };
        for (slot, first) in planned.lists {
            // The device may have been given them or not.
            self.slots[slot as usize].blocks.truncate(first as usize);
        }
        for id in planned.sequences {
            if let Some(sequence) = self.sequences.get_mut(&id) {
                let len = sequence.table.len();
                sequence.cut(&mut self.pool, len);
            }
        }
    }

    /// Gives requests of a single token, which has no row of a prompt, their slots.
    fn admit_single_tokens(&mut self, only: Option<SequenceId>) {
        let requests: Vec<_> = self.requests.values().take(self.slots.len()).copied().collect();
        for id in requests {
            let Some(sequence) = self.sequences.get(&id) else { continue };
            let Some(request) = &sequence.request else { continue };
            if request.slot.is_some() {
                continue;
            }
            if is_other(only, id) || !request.has_rows(&sequence.table) || self.admit(id, 1).is_none() {
                // Who comes later waits.
                break;
            }
        }
    }

    /// A row for each sequence that draws and has a block for it. One without pauses.
    fn plan_decode(&mut self, step: &mut Step, only: Option<SequenceId>) {
        for (&number, &id) in &self.requests {
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            let Some(request) = &sequence.request else { continue };
            let Some(slot) = request.slot else { break };
            if is_other(only, id) {
                continue;
            }
            let position = sequence.table.len();
            let given = request.want == Want::Next;
            let due = if given {
                request.has_rows(&sequence.table) && !request.has_prompt(&sequence.table)
            } else {
                request.has_prompt(&sequence.table) && request.draws < request.most() && position < self.limits.context
            };
            if !due {
                continue;
            }
            let Ok(copy) = self.pool.grow(&mut sequence.table, 1) else { continue };
            let token = sequence.tokens.get(position as usize).copied();
            step.copies.extend(copy);
            step.blocks.extend(changed_blocks(slot, &self.slots[slot as usize].blocks, sequence.table.blocks()));
            let row = step.decode.len() as u32;
            let give = if given { Give::Logits { last: true } } else { Give::Draw };
            step.picks.push(Pick { row, sequence: id, request: number, slot, give });
            step.decode.push(DecodeRow { sequence: id, request: number, slot, position, token, given });
        }
    }

    /// Rows of prompts, in order of arrival. Who lacks blocks has taken all but those that are kept for who draws, so that
    /// later ones get none, and no slot.
    fn plan_prompts(&mut self, step: &mut Step, only: Option<SequenceId>) {
        let mut rows_left = self.limits.prefill_rows.max(1);
        let mut logits_left = self.limits.logit_rows.max(1);
        // No more can run.
        let requests: Vec<_> = self.requests.iter().take(self.slots.len()).map(|(number, id)| (*number, *id)).collect();
        for (number, id) in requests {
            if rows_left == 0 {
                break;
            }
            let Some(sequence) = self.sequences.get(&id) else { continue };
            let Some(request) = &sequence.request else { continue };
            if is_other(only, id) || request.has_rows(&sequence.table) {
                if request.slot.is_none() {
                    // Who comes later waits: if they ran, those that run would not be before those that wait.
                    break;
                }
                continue;
            }
            let (each, start, prompt_end) = (request.want == Want::Each, request.start, request.rows_end());
            let slot = match request.slot {
                Some(slot) => slot,
                None => match self.admit(id, rows_left) {
                    Some(slot) => slot,
                    None => break,
                },
            };
            // Those that draw come first, in the next step too.
            let spare = self.pool.free().saturating_sub(self.reserve(id, true));
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            let position = sequence.table.len();
            let mut rows = (prompt_end - position).min(rows_left);
            if each {
                rows = rows.min(start.saturating_sub(position).saturating_add(logits_left));
            }
            if position == prompt_end {
                // All of them were found.
                continue;
            }
            if rows == 0 {
                break;
            }
            rows = rows.min(self.pool.fits(&sequence.table, spare));
            if rows == 0 {
                continue;
            }
            let Ok(copy) = self.pool.grow(&mut sequence.table, rows) else { break };
            let end = position + rows;
            step.copies.extend(copy);
            step.blocks.extend(changed_blocks(slot, &self.slots[slot as usize].blocks, sequence.table.blocks()));
            let first_row = step.rows();
            for picked in position..end {
                let last = picked + 1 == prompt_end;
                let give = match sequence.request.as_ref().map(|request| &request.want) {
                    Some(Want::Each) if picked >= start => Give::Logits { last },
                    Some(Want::Last) if last => Give::Logits { last },
                    Some(Want::Draw { most: 1.., .. }) if last => Give::Draw,
                    _ => continue,
                };
                logits_left -= u32::from(each);
                step.picks.push(Pick { row: first_row + picked - position, sequence: id, request: number, slot, give });
            }
            rows_left -= rows;
            let tokens = sequence.tokens[position as usize..end as usize].to_vec();
            step.prompts.push(PromptRows { sequence: id, request: number, slot, position, tokens });
        }
    }

    /// Gives a request a slot, if one is free, and blocks for its next rows and for everyone who runs: one each.
    fn admit(&mut self, id: SequenceId, rows: u32) -> Option<u32> {
        let slot = self.slots.iter().position(|slot| slot.sequence.is_none())?;
        let growing = self.reserve(id, false);
        let Sequence { tokens, table, as_prompt, published, request } = self.sequences.get_mut(&id)?;
        let request = request.as_mut()?;
        if self.limits.sharing && table.is_empty() {
            // Rows whose logits are wanted are computed.
            let most = if request.want == Want::Each { request.start + 1 } else { request.prompt_end };
            *table = self.pool.adopt(&tokens[..most as usize]);
        }
        let cached = table.len() - request.base;
        let rows = rows.min(request.prompt_end - table.len());
        if u64::from(self.pool.needed(table, rows)) + u64::from(growing) > u64::from(self.pool.free()) {
            self.pool.truncate(table, request.base);
            return None;
        }
        if cached > 0 {
            (*as_prompt, *published) = (table.len(), table.len() / self.pool.block());
        }
        request.slot = Some(slot as u32);
        self.slots[slot].sequence = Some(id);
        self.events.push(Event::Admitted { sequence: id, cached });
        Some(slot as u32)
    }

    /// How many other sequences run and have not all the blocks that they may need; only those with their whole prompts, or
    /// all.
    fn reserve(&self, id: SequenceId, drawing: bool) -> u32 {
        let may_grow = |other: &&SequenceId| {
            self.sequences.get(other).is_some_and(|sequence| {
                sequence.request.as_ref().is_some_and(|request| {
                    let room = sequence.table.blocks().len() as u64 * u64::from(self.pool.block());
                    (!drawing || request.has_prompt(&sequence.table))
                        && u64::from(request.end(self.limits.context)) > room
                })
            })
        };
        let running = self.slots.iter().filter_map(|slot| slot.sequence.as_ref());
        running.filter(|other| **other != id).filter(may_grow).count() as u32
    }

    /// Ends one request, when none can go on. Returns whether there was one.
    ///
    /// It is the youngest of which others get blocks. If there is none, idle sequences hold the blocks, and the oldest cannot
    /// be served: ending a younger one would help nobody.
    fn end_for_want_of_blocks(&mut self) -> bool {
        let gives_back = |id: &&SequenceId| {
            self.sequences.get(id).is_some_and(|Sequence { table, request, .. }| {
                let base = request.as_ref().map_or(0, |request| request.base);
                table.blocks().len() > base.div_ceil(self.pool.block()) as usize
            })
        };
        let youngest = self.requests.values().rev().find(gives_back);
        let Some(&id) = youngest.or(self.requests.values().next()) else { return false };
        let Some(sequence) = self.sequences.get_mut(&id) else { return false };
        let Some(request) = &sequence.request else { return false };
        let rows = request.prompt_end.saturating_sub(sequence.table.len()).max(1);
        let (needed, base) = (self.pool.needed(&sequence.table, rows), request.base);
        let free = self.pool.free();
        sequence.cut(&mut self.pool, base);
        self.fail(id, End::PoolFull { needed, free });
        true
    }
}

/// Whether a sequence has no rows in a step that may be of one sequence only.
fn is_other(only: Option<SequenceId>, id: SequenceId) -> bool {
    only.is_some_and(|only| only != id)
}

/// What of a slot's list of blocks the device does not have.
fn changed_blocks(slot: u32, old: &[u32], new: &[u32]) -> Option<SlotBlocks> {
    let first = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    (first < new.len()).then(|| SlotBlocks { slot, first: first as u32, blocks: new[first..].to_vec() })
}
