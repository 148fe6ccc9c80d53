//! What committed and computed steps change.

use super::{End, Event, Flight, Give, Scheduler, SequenceId, Stale, Step, StepId, Want};

impl Scheduler {
    /// The device has taken the step that was planned last.
    ///
    /// # Errors
    /// [`Stale`] when another was planned since, or the device was forgotten: the step must not be submitted then.
    pub(crate) fn commit(&mut self, step: &Step) -> Result<(), Stale> {
        self.planned.take_if(|planned| planned.step == step.id).ok_or(Stale)?;
        for changed in &step.blocks {
            if let Some(slot) = self.slots.get_mut(changed.slot as usize) {
                slot.blocks.truncate(changed.first as usize);
                slot.blocks.extend(&changed.blocks);
            }
        }
        for row in &step.decode {
            self.advance(row.sequence, row.request, 1, false);
        }
        for rows in &step.prompts {
            self.advance(rows.sequence, rows.request, rows.tokens.len() as u32, true);
        }
        let mut draws = Vec::new();
        for pick in step.picks.iter().filter(|pick| pick.give == Give::Draw) {
            let sequence = self.sequences.get_mut(&pick.sequence);
            if let Some(request) = sequence.and_then(|sequence| sequence.request.as_mut())
                && request.number == pick.request
            {
                request.draws += 1;
            }
            draws.push((pick.sequence, pick.request));
        }
        if !draws.is_empty() {
            self.flights.push_back(Flight { step: step.id, draws });
        }
        let of_prompts = step.prompts.iter().map(|rows| (rows.sequence, rows.request));
        for (id, request) in of_prompts.chain(step.decode.iter().map(|row| (row.sequence, row.request))) {
            self.end_without_draws(id, request);
        }
        Ok(())
    }

    /// Counts rows as submitted, unless their request is over.
    fn advance(&mut self, id: SequenceId, number: u64, rows: u32, of_prompt: bool) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        if sequence.request.as_ref().is_none_or(|request| request.number != number) {
            return;
        }
        if of_prompt && sequence.as_prompt == sequence.table.len() {
            sequence.as_prompt += rows;
        }
        self.pool.advance(&mut sequence.table, rows);
        if self.limits.sharing {
            sequence.publish(&mut self.pool, self.limits.share_drawn);
        }
    }

    /// Ends a request that draws nothing, once all its rows are submitted.
    fn end_without_draws(&mut self, id: SequenceId, number: u64) {
        let Some(sequence) = self.sequences.get(&id) else { return };
        let Some(request) = sequence.request.as_ref().filter(|request| request.number == number) else { return };
        if request.most() == 0 && request.has_prompt(&sequence.table) {
            let draws = matches!(request.want, Want::Draw { .. });
            self.finish(id);
            if draws {
                self.events.push(Event::Ended { sequence: id, end: End::Limit });
            }
        }
    }

    /// The host has read the tokens of a step: one for each of the step's [`Step::draws`], unless none could be drawn. Steps are told in their order,
    /// those in which nothing is drawn left out.
    ///
    /// # Errors
    /// [`Stale`] when the step is not the oldest whose tokens are unknown; nothing has changed then.
    pub(crate) fn drawn(&mut self, step: StepId, tokens: &[(SequenceId, u32)]) -> Result<(), Stale> {
        if self.flights.front().is_none_or(|flight| flight.step != step) {
            return Err(Stale);
        }
        for (id, number) in self.flights.pop_front().into_iter().flat_map(|flight| flight.draws) {
            match tokens.iter().find(|(sequence, _)| *sequence == id) {
                Some((_, token)) => self.append(id, number, *token),
                // Without it what follows cannot be told from what it is.
                None if self.runs(id, number) => self.fail(id, End::NoToken),
                None => {}
            }
        }
        Ok(())
    }

    fn runs(&self, id: SequenceId, number: u64) -> bool {
        let request = self.sequences.get(&id).and_then(|sequence| sequence.request.as_ref());
        request.is_some_and(|request| request.number == number)
    }

    /// Appends a drawn token, unless it was drawn for a request that is over.
    fn append(&mut self, id: SequenceId, number: u64, token: u32) {
        let context = self.limits.context as usize;
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let Some(request) = sequence.request.as_mut().filter(|request| request.number == number) else { return };
        request.confirmed += 1;
        let end = if matches!(&request.want, Want::Draw { stops, .. } if stops.contains(&token)) {
            Some(End::Stop(token))
        } else {
            sequence.tokens.push(token);
            self.events.push(Event::Token { sequence: id, token });
            if request.confirmed >= request.most() {
                Some(End::Limit)
            } else {
                (sequence.tokens.len() > context).then_some(End::ContextFull)
            }
        };
        if self.limits.sharing {
            sequence.publish(&mut self.pool, self.limits.share_drawn);
        }
        if let Some(end) = end {
            self.finish(id);
            self.events.push(Event::Ended { sequence: id, end });
        }
    }
}
