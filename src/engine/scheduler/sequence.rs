//! Sequences and the start and end of their requests: what callers ask for.

use super::{EngineError, LookupStats, Mailbox, Output, Scheduler, SequenceId, SessionEvent, request::Request};
use crate::{
    engine::{Sampler, constraint::Constrained},
    kv::{Pools, Tables},
};

/// A sequence of tokens.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// The tokens that the host knows.
    pub(super) tokens: Vec<u32>,
    /// Its blocks, and the number of submitted positions.
    pub(super) table: Tables,
    /// Positions from the start that were all computed by prefill rows.
    pub(super) prefilled_len: u32,
    /// Blocks that need not be published any more.
    pub(super) published_blocks: u32,
    /// Grows with each request that ended: the sequence with the least is idle for the longest time.
    pub(super) last_used: u64,
    pub(super) request: Option<Request>,
    /// The draft tokens of its last request.
    pub(super) lookup: LookupStats,
    pub(super) mailbox: Mailbox,
}

impl Sequence {
    /// Returns whether it has a request, or events of one that the session has not taken.
    pub(super) fn is_busy(&self) -> bool {
        self.request.is_some() || self.mailbox.is_open()
    }

    /// Returns the submitted positions whose tokens the host knows.
    fn known(&self) -> u32 {
        (self.tokens.len() as u32).min(self.table.len())
    }

    /// Gives back the blocks behind the first `len` positions; all of them if a window before `len` is lost.
    pub(super) fn truncate(&mut self, pool: &mut Pools, len: u32) {
        pool.truncate(&mut self.table, len);
        self.prefilled_len = self.prefilled_len.min(self.table.len());
        self.published_blocks = self.published_blocks.min(self.table.len() / pool.block());
    }

    /// Publishes the blocks filled since the last call, for other sequences to find.
    pub(super) fn publish(&mut self, pool: &mut Pools, with_decode: bool) {
        let computed = if with_decode { self.known() } else { self.known().min(self.prefilled_len) };
        if computed / pool.block() > self.published_blocks {
            self.published_blocks = computed / pool.block();
            pool.publish(&self.table, &self.tokens, computed);
        }
    }
}

impl Scheduler {
    /// Adds an empty sequence.
    pub(crate) fn open(&mut self) -> SequenceId {
        self.add(Sequence::default())
    }

    /// Adds a sequence with the tokens of an idle one. They share what is computed.
    ///
    /// # Errors
    /// [`EngineError::Busy`]; [`EngineError::NoRequest`] when there is no such sequence.
    pub(crate) fn fork(&mut self, id: SequenceId) -> Result<SequenceId, EngineError> {
        let Sequence { tokens, prefilled_len, published_blocks, .. } = self.idle(id)?;
        let (tokens, prefilled_len, published_blocks) = (tokens.clone(), *prefilled_len, *published_blocks);
        let table = self.sequences.get(&id).map(|sequence| self.pool.fork(&sequence.table)).unwrap_or_default();
        Ok(self.add(Sequence { tokens, table, prefilled_len, published_blocks, ..Sequence::default() }))
    }

    /// Shortens an idle sequence to `len` tokens, if it is longer.
    ///
    /// # Errors
    /// Those of [`Scheduler::fork`].
    pub(crate) fn truncate(&mut self, id: SequenceId, len: u32) -> Result<(), EngineError> {
        self.idle(id)?.tokens.truncate(len as usize);
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.truncate(&mut self.pool, len);
        }
        self.keep_states(id, len);
        Ok(())
    }

    /// Removes a sequence with its request.
    pub(crate) fn release(&mut self, id: SequenceId) {
        self.cancel(id);
        self.release_states(id);
        if let Some(sequence) = self.sequences.remove(&id) {
            self.pool.release(sequence.table);
        }
    }

    /// Appends `tokens` to an idle sequence and requests `output`; `sampler` holds the state of sampling, where tokens are
    /// sampled. `tokens` may be empty where the last token is not computed: after a reply, or an error.
    ///
    /// # Errors
    /// [`EngineError::NoTokens`], [`EngineError::ContextFull`], [`EngineError::NeverFits`], and those of
    /// [`Scheduler::fork`]; nothing has changed then.
    pub(crate) fn submit(
        &mut self,
        id: SequenceId,
        tokens: &[u32],
        output: Output,
        sampler: Option<Sampler>,
    ) -> Result<(), EngineError> {
        // A window's pool has room for a sequence of any length.
        let (context, block, blocks) = (self.limits.context, self.pool.block(), self.pool.full().blocks());
        let (number, drafts) = (self.number(), self.limits.drafts);
        let sequence = self.idle(id)?;
        let (start, computed_before) = (sequence.tokens.len() as u32, sequence.table.len());
        if tokens.is_empty() && (computed_before == start || matches!(output, Output::AllLogits | Output::AllHidden)) {
            return Err(EngineError::NoTokens);
        }
        let needed = u64::from(start) + tokens.len() as u64;
        if needed > u64::from(context) {
            return Err(EngineError::ContextFull { needed, capacity: context });
        }
        let needed_blocks = needed.div_ceil(u64::from(block));
        if needed_blocks > u64::from(blocks) {
            return Err(EngineError::NeverFits { needed: needed_blocks, blocks });
        }
        sequence.tokens.extend(tokens);
        sequence.mailbox = Mailbox::new(number);
        sequence.lookup = LookupStats::default();
        sequence.request = Some(Request {
            number,
            start,
            computed_before,
            prompt_end: needed as u32,
            output,
            constrained: None,
            logprobs: None,
            // Penalties, masks and Mirostat's cuts depend on the tokens before.
            drafts: match sampler.as_ref().map(Sampler::options) {
                Some(options) if options.penalises() || options.on_host() => 0,
                _ => drafts,
            },
            sampler,
            slot: None,
            snapshot: None,
            reply_snapshot: None,
            sampled: 0,
            confirmed: 0,
        });
        self.requests.insert(number, id);
        Ok(())
    }

    /// Adds a constraint and log-probabilities to a request that was just submitted.
    pub(crate) fn extend_request(&mut self, id: SequenceId, constrained: Option<Constrained>, logprobs: Option<u32>) {
        if let Some(request) = self.sequences.get_mut(&id).and_then(|sequence| sequence.request.as_mut()) {
            if constrained.is_some() {
                request.drafts = 0;
            }
            (request.constrained, request.logprobs) = (constrained, logprobs);
        }
    }

    /// Ends the request of a sequence, if it has one, and drops its events. If some token was sampled, the sequence keeps all
    /// known ones; else it is as before the request.
    pub(crate) fn cancel(&mut self, id: SequenceId) {
        self.undo(id);
        if let Some(sequence) = self.sequences.get_mut(&id) {
            sequence.mailbox = Mailbox::default();
        }
        self.notified.retain(|notified| *notified != id);
    }

    /// Ends the request of a sequence because of an error.
    pub(super) fn fail(&mut self, id: SequenceId, error: EngineError) {
        self.undo(id);
        self.send(id, SessionEvent::Failed(error));
    }

    /// Ends the request of a sequence.
    pub(super) fn finish(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        let Some(request) = sequence.request.take() else { return };
        sequence.last_used = request.number;
        // Rows in flight for it are computed in vain.
        let len = sequence.tokens.len() as u32;
        sequence.truncate(&mut self.pool, len);
        let len = sequence.table.len();
        self.requests.remove(&request.number);
        if let Some(snapshot) = request.snapshot {
            self.snapshots.drop_holder(snapshot);
        }
        if let Some(slot) = request.slot.and_then(|slot| self.slots.get_mut(slot as usize)) {
            slot.sequence = None;
        }
        self.keep_states(id, len);
    }

    /// Ends the request of a sequence early.
    fn undo(&mut self, id: SequenceId) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        if let Some(request) = sequence.request.as_ref().filter(|request| request.confirmed == 0) {
            sequence.tokens.truncate(request.start as usize);
        }
        self.finish(id);
    }
}
