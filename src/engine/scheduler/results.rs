//! The effects of committed and finished steps.

use std::sync::Arc;

use super::{
    EngineError, FinishReason, LogitRow, LogitsUse, LookupStats, Output, Scheduler, SequenceId, SessionEvent,
    StaleStep, StepOutput, StepPlan, request::Request,
};
use crate::{engine::TokenLogprobs, gpu::GpuError, kernels::sample::penalties::MASKED};

impl Scheduler {
    /// Advances the sequences of the step that was planned last: the device takes it.
    ///
    /// # Errors
    /// [`StaleStep`] when another step was planned since, or the device was forgotten: the step must not be submitted then.
    pub(crate) fn commit(&mut self, step: &StepPlan) -> Result<(), StaleStep> {
        let planned = self.planned.take_if(|planned| planned.step == step.id).ok_or(StaleStep)?;
        for changed in &step.block_tables {
            if let Some(slot) = self.slots.get_mut(changed.slot as usize) {
                slot.blocks[changed.group].truncate(changed.first as usize);
                slot.blocks[changed.group].extend(&changed.blocks);
            }
        }
        for row in &step.decode {
            self.advance(row.sequence, row.request, row.rows(), false);
        }
        for rows in &step.prefill {
            self.advance(rows.sequence, rows.request, rows.tokens.len() as u32, true);
        }
        self.commit_states(step, planned.snapshots);
        for row in step.sampled() {
            let sequence = self.sequences.get_mut(&row.sequence);
            if let Some(request) = sequence.and_then(|sequence| sequence.request.as_mut())
                && request.number == row.request
            {
                request.sampled += 1;
            }
        }
        if step.sampled().next().is_some() {
            self.in_flight.push_back(step.id);
        }
        for (id, request) in step.requests() {
            self.finish_without_samples(id, request);
        }
        Ok(())
    }

    /// Counts rows as submitted, unless their request is over.
    fn advance(&mut self, id: SequenceId, number: u64, rows: u32, prefill: bool) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        if sequence.request.as_ref().is_none_or(|request| request.number != number) {
            return;
        }
        if prefill && sequence.prefilled_len == sequence.table.len() {
            sequence.prefilled_len += rows;
        }
        self.pool.advance(&mut sequence.table, rows);
        if self.limits.prefix_sharing {
            sequence.publish(&mut self.pool, self.limits.share_decode_blocks);
        }
        self.pool.slide(&mut sequence.table);
    }

    /// Ends a request that samples nothing, once all its rows are submitted.
    fn finish_without_samples(&mut self, id: SequenceId, number: u64) {
        let Some(sequence) = self.sequences.get(&id) else { return };
        let Some(request) = sequence.request.as_ref().filter(|request| request.number == number) else { return };
        if request.max_tokens() == 0 && request.has_prompt(&sequence.table) {
            let is_reply = matches!(request.output, Output::Tokens { .. });
            self.finish(id);
            if is_reply {
                self.send(id, SessionEvent::Finished(FinishReason::MaxTokens));
            }
        }
    }

    /// Takes in what a step computed. Steps finish in the order of their commits.
    ///
    /// # Errors
    /// [`StaleStep`] when the step is not the oldest in flight, or samples nothing; no token is appended then.
    pub(crate) fn finish_step(&mut self, output: StepOutput) -> Result<(), StaleStep> {
        // `None`: sampled on the host.
        let mut tokens: Vec<_> = output.tokens.into_iter().map(|(row, token)| (row, Some(token))).collect();
        let mut of_logprobs = Vec::new();
        for (row, logits) in output.read_back {
            match row.usage {
                LogitsUse::Return { last } | LogitsUse::Hidden { last } => {
                    let mailbox = self.sequences.get(&row.sequence).map(|sequence| &sequence.mailbox);
                    if mailbox.is_some_and(|mailbox| mailbox.awaits(Some(row.request))) {
                        self.send(row.sequence, SessionEvent::Row { values: logits, last });
                    }
                }
                LogitsUse::Sample => {
                    if tokens.iter().all(|(sampled, _)| *sampled != row) {
                        tokens.push((row, None));
                    }
                    of_logprobs.push((row, logits));
                }
            }
        }
        if self.in_flight.front() != Some(&output.step) {
            return Err(StaleStep);
        }
        self.in_flight.pop_front();
        let mut accepted: Vec<(LogitRow, Option<u32>)> = Vec::new();
        for (row, token) in tokens {
            // What is sampled behind another token than was drafted is dropped.
            let follows =
                |(_, draft)| accepted.last().is_some_and(|(of, token)| of.row + 1 == row.row && *token == Some(draft));
            if row.draft.is_none_or(follows) {
                let token = token.unwrap_or_else(|| {
                    let (_, logits) = of_logprobs.iter_mut().find(|(of, _)| *of == row)?;
                    self.sample_on_host(&row, logits)
                });
                accepted.push((row, token));
            }
        }
        for run in accepted.chunk_by(|_, row| row.0.draft.is_some()) {
            self.accept_drafts(&run[0].0, run.len() as u32);
        }
        for (row, token) in accepted {
            match token {
                Some(token) => {
                    let logits = of_logprobs.iter().find(|(of, _)| *of == row).map(|(_, logits)| &**logits);
                    self.append(&row, token, logits);
                }
                // Nothing can follow a token that is unknown.
                None if self.request_mut(&row).is_some() => self.fail(row.sequence, EngineError::NotANumber),
                None => {}
            }
        }
        Ok(())
    }

    /// Samples a row's token on the host; its logits get bias, penalties and mask.
    fn sample_on_host(&mut self, row: &LogitRow, logits: &mut [f32]) -> Option<u32> {
        let request = self.request_mut(row)?;
        let sampler = request.sampler.as_mut()?;
        if sampler.options().penalises() {
            sampler.penalise(logits);
        }
        if let Some(constrained) = &request.constrained {
            let forbidden = (0u32..).zip(&mut *logits).filter(|(id, _)| !constrained.allows(*id));
            forbidden.for_each(|(_, logit)| *logit = MASKED);
        }
        sampler.draw(logits).ok()
    }

    /// Takes in that `rows` rows of a sequence count from `first` on: its last token's and those of accepted draft tokens. The
    /// positions of rejected ones are given back.
    fn accept_drafts(&mut self, first: &LogitRow, rows: u32) {
        let Some(request) = self.request_mut(first).filter(|request| request.drafts > 0) else { return };
        let drafted = request.sampled.saturating_sub(request.confirmed + 1);
        request.sampled = request.confirmed + rows;
        let decodes = request.confirmed > 0;
        let Some(sequence) = self.sequences.get_mut(&first.sequence) else { return };
        let len = sequence.tokens.len() as u32 + rows - 1;
        let rejects = drafted + 1 > rows;
        if rejects {
            sequence.truncate(&mut self.pool, len);
        }
        if decodes {
            let counts = LookupStats { steps: 1, drafted: drafted.into(), accepted: u64::from(rows - 1) };
            self.lookup.add(counts);
            sequence.lookup.add(counts);
        }
        if rejects {
            self.keep_states(first.sequence, len);
        }
    }

    /// Returns the request of a row, unless it is over.
    fn request_mut(&mut self, row: &LogitRow) -> Option<&mut Request> {
        let request = self.sequences.get_mut(&row.sequence)?.request.as_mut()?;
        (request.number == row.request).then_some(request)
    }

    /// Appends a token sampled from `logits`, if they were read back, unless its request is over.
    fn append(&mut self, row: &LogitRow, token: u32, logits: Option<&[f32]>) {
        let (id, context) = (row.sequence, self.limits.context as usize);
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let Some(request) = sequence.request.as_mut().filter(|request| request.number == row.request) else { return };
        request.confirmed += 1;
        if let Some(sampler) = &mut request.sampler {
            sampler.learn(token, request.confirmed);
        }
        let stops = matches!(&request.output, Output::Tokens { stop_tokens, .. } if stop_tokens.contains(&token));
        let more = request.confirmed < request.max_tokens();
        if let Some(constrained) = &mut request.constrained {
            let accepted = match constrained.allows(token) {
                // Only rounding of a draw's last digit can sample a forbidden token.
                false => Err("a token was sampled that it forbids".to_owned()),
                true if stops => Ok(()),
                true => constrained.accept(token, more),
            };
            if let Err(message) = accepted {
                return self.fail(id, EngineError::Constraint(message));
            }
        }
        let reason = if stops {
            Some(FinishReason::StopToken(token))
        } else {
            if let (Some(top), Some(logits)) = (request.logprobs, logits) {
                let logprobs = TokenLogprobs::new(logits, token, top);
                sequence.mailbox.send(SessionEvent::Logprobs(Box::new(logprobs)));
            }
            sequence.tokens.push(token);
            sequence.mailbox.send(SessionEvent::Token(token));
            self.notified.push(id);
            if !more {
                Some(FinishReason::MaxTokens)
            } else {
                (sequence.tokens.len() > context).then_some(FinishReason::ContextFull)
            }
        };
        if self.limits.prefix_sharing {
            sequence.publish(&mut self.pool, self.limits.share_decode_blocks);
        }
        if let Some(reason) = reason {
            self.finish(id);
            self.send(id, SessionEvent::Finished(reason));
        }
    }

    /// Takes in that a step could not be prepared: nothing was computed. Its requests are tried alone; one that was alone
    /// fails.
    pub(crate) fn preparation_failed(&mut self, step: &StepPlan, error: &Arc<GpuError>) {
        let ids: Vec<_> = step.sequences().collect();
        match ids[..] {
            [_] => self.fail_step(step, error),
            _ => self.retry_alone.extend(ids),
        }
    }

    /// Fails the requests of a step.
    pub(crate) fn fail_step(&mut self, step: &StepPlan, error: &Arc<GpuError>) {
        for (id, number) in step.requests() {
            let mailbox = self.sequences.get(&id).map(|sequence| &sequence.mailbox);
            if mailbox.is_some_and(|mailbox| mailbox.awaits(Some(number))) {
                self.fail(id, EngineError::Gpu(Arc::clone(error)));
            }
        }
    }

    /// Forgets all that the device knew: requests fail, also those of which only the logits are missing. Sequences keep their
    /// tokens, which are computed again with the next request.
    pub(crate) fn forget_device(&mut self, error: &EngineError) {
        if let Some(planned) = self.planned.take() {
            self.abandon_states(planned.snapshots);
        }
        self.in_flight.clear();
        self.retry_alone.clear();
        let ids: Vec<_> = self.sequences.keys().copied().collect();
        for id in ids {
            if self.sequences.get(&id).is_some_and(|sequence| sequence.mailbox.awaits(None)) {
                self.fail(id, error.clone());
            }
            if let Some(sequence) = self.sequences.get_mut(&id) {
                sequence.truncate(&mut self.pool, 0);
            }
        }
        self.pool.forget();
        self.snapshots.forget();
        for slot in &mut self.slots {
            slot.blocks.iter_mut().for_each(Vec::clear);
            slot.states.forget();
        }
    }
}
