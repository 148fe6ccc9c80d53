//! Sequences and their requests: what callers start and end.

use super::{End, Event, Refusal, Scheduler, SequenceId, Want, request::Request};
use crate::kv::{Pool, Table};

/// A sequence of tokens.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// Those that the host knows.
    pub(super) tokens: Vec<u32>,
    /// Its blocks, and as its length the positions that are submitted.
    pub(super) table: Table,
    /// Positions from the beginning that were all computed as prompts' rows.
    pub(super) as_prompt: u32,
    /// Blocks that need not be published any more.
    pub(super) published: u32,
    pub(super) request: Option<Request>,
}

impl Sequence {
    /// Positions, of those submitted, that hold tokens which the host knows.
    fn known(&self) -> u32 {
        (self.tokens.len() as u32).min(self.table.len())
    }

    /// Gives back what is behind `len` positions.
    pub(super) fn cut(&mut self, pool: &mut Pool, len: u32) {
        pool.truncate(&mut self.table, len);
        self.as_prompt = self.as_prompt.min(self.table.len());
        self.published = self.published.min(self.table.len() / pool.block());
    }

    /// Makes the blocks that were filled since the last time findable.
    pub(super) fn publish(&mut self, pool: &mut Pool, with_drawn: bool) {
        let computed = if with_drawn { self.known() } else { self.known().min(self.as_prompt) };
        if computed / pool.block() > self.published {
            self.published = computed / pool.block();
            pool.publish(&self.table, &self.tokens, computed);
        }
    }
}

impl Scheduler {
    /// A new sequence, of no tokens.
    pub(crate) fn open(&mut self) -> SequenceId {
        self.add(Sequence::default())
    }

    /// A new sequence of the same tokens as an idle one. They share what is computed.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] or [`Refusal::Busy`].
    pub(crate) fn fork(&mut self, id: SequenceId) -> Result<SequenceId, Refusal> {
        let Sequence { tokens, as_prompt, published, .. } = self.idle(id)?;
        let (tokens, as_prompt, published) = (tokens.clone(), *as_prompt, *published);
        let table = self.sequences.get(&id).map(|sequence| self.pool.fork(&sequence.table)).unwrap_or_default();
        Ok(self.add(Sequence { tokens, table, as_prompt, published, request: None }))
    }

    /// Shortens an idle sequence to `len` tokens, if it is longer.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] or [`Refusal::Busy`].
    pub(crate) fn truncate(&mut self, id: SequenceId, len: u32) -> Result<(), Refusal> {
        self.idle(id)?.tokens.truncate(len as usize);
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.cut(&mut self.pool, len);
        }
        Ok(())
    }

    /// Ends a sequence, and its request without an event.
    pub(crate) fn release(&mut self, id: SequenceId) {
        self.cancel(id);
        if let Some(sequence) = self.sequences.remove(&id) {
            self.pool.release(sequence.table);
        }
    }

    /// Asks for `tokens` to be appended to a sequence, and for what is wanted of them. `tokens` may be empty where a token
    /// was drawn and is not computed: as after [`End::Limit`], or an error. Gives the number of the request.
    ///
    /// # Errors
    /// [`Refusal`].
    pub(crate) fn submit(&mut self, id: SequenceId, tokens: &[u32], want: Want) -> Result<u64, Refusal> {
        let (context, block, blocks) = (self.limits.context, self.pool.block(), self.pool.blocks());
        let number = self.number();
        let sequence = self.idle(id)?;
        let (start, base) = (sequence.tokens.len() as u32, sequence.table.len());
        if tokens.is_empty() && (base == start || want == Want::Each) {
            return Err(Refusal::NoTokens);
        }
        let needed = u64::from(start) + tokens.len() as u64;
        if needed > u64::from(context) {
            return Err(Refusal::Context { needed, capacity: context });
        }
        let needed_blocks = needed.div_ceil(u64::from(block));
        if needed_blocks > u64::from(blocks) {
            return Err(Refusal::Pool { needed: needed_blocks, blocks });
        }
        sequence.tokens.extend(tokens);
        let prompt_end = needed as u32;
        sequence.request = Some(Request { number, start, base, prompt_end, want, slot: None, draws: 0, confirmed: 0 });
        self.requests.insert(number, id);
        Ok(number)
    }

    /// Ends the request of a sequence, if it has one, without an event; events that were not taken are dropped. If some
    /// token was drawn, the sequence keeps all of them that are known; else it is as before the request.
    pub(crate) fn cancel(&mut self, id: SequenceId) {
        self.undo(id);
        self.events.retain(|event| event.sequence() != id);
    }

    /// Ends the request of a sequence because of an error.
    pub(super) fn fail(&mut self, id: SequenceId, end: End) {
        if self.undo(id).is_some() {
            self.events.push(Event::Ended { sequence: id, end });
        }
    }

    /// Ends the request of a sequence as it was meant to end.
    pub(super) fn finish(&mut self, id: SequenceId) -> Option<Request> {
        let sequence = self.sequences.get_mut(&id)?;
        let request = sequence.request.take()?;
        // What is under way for it is computed for nothing.
        let len = sequence.tokens.len() as u32;
        sequence.cut(&mut self.pool, len);
        self.requests.remove(&request.number);
        if let Some(slot) = request.slot.and_then(|slot| self.slots.get_mut(slot as usize)) {
            slot.sequence = None;
        }
        Some(request)
    }

    fn undo(&mut self, id: SequenceId) -> Option<Request> {
        let sequence = self.sequences.get_mut(&id)?;
        let request = sequence.request.as_ref()?;
        if request.confirmed == 0 {
            sequence.tokens.truncate(request.start as usize);
        }
        self.finish(id)
    }

    /// Forgets all that the device knew, and ends all requests with [`End::DeviceLost`]. Sequences keep their tokens; they
    /// are computed again with the next request.
    pub(crate) fn forget_device(&mut self) {
        self.planned = None;
        self.flights.clear();
        for id in self.requests.clone().into_values() {
            self.fail(id, End::DeviceLost);
        }
        for sequence in self.sequences.values_mut() {
            sequence.cut(&mut self.pool, 0);
        }
        self.pool.forget();
        for slot in &mut self.slots {
            slot.blocks.clear();
        }
    }
}
