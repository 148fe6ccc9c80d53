use crate::kv::Table;

/// A sequence of a [`Scheduler`](super::Scheduler). Ids are not used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SequenceId(pub(super) u64);

/// What a request is for, beside appending its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// The logits of the last token.
    Last,
    /// The logits of the last token, which is computed as one that was drawn.
    Next,
    /// The logits of each of its tokens.
    Each,
    /// Tokens that continue it.
    Draw {
        /// At most so many. With none, the tokens are only computed.
        most: u32,
        /// Tokens that end it; they are not kept.
        stops: Vec<u32>,
    },
}

/// Why a request is not taken. Nothing has changed then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// There is no token to compute.
    #[error("the input has no tokens")]
    NoTokens,
    /// There is no such sequence.
    #[error("there is no such sequence")]
    Unknown,
    /// The sequence has a request.
    #[error("the session already has a request in progress")]
    Busy,
    /// The sequence would be longer than the context.
    #[error("{needed} tokens do not fit in the context of {capacity} tokens")]
    Context {
        /// Tokens that it would have.
        needed: u64,
        /// Tokens that it can have.
        capacity: u32,
    },
    /// The sequence would need more blocks than there are.
    #[error("the sequence needs {needed} KV cache blocks, but the cache has only {blocks}")]
    Pool {
        /// Blocks that it would need.
        needed: u64,
        /// All blocks.
        blocks: u32,
    },
}

/// What has happened to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It runs.
    Admitted {
        /// Its sequence.
        sequence: SequenceId,
        /// Tokens that need not be computed, for their blocks were found in the cache.
        cached: u32,
    },
    /// A token was drawn.
    Token {
        /// Its sequence.
        sequence: SequenceId,
        /// The token.
        token: u32,
    },
    /// It is over. A request for logits has no such event when all goes well: it is over when the step that computes its
    /// last row is committed.
    Ended {
        /// Its sequence.
        sequence: SequenceId,
        /// Why.
        end: End,
    },
}

impl Event {
    /// The sequence whose request it is.
    pub(crate) fn sequence(&self) -> SequenceId {
        match *self {
            Self::Admitted { sequence, .. } | Self::Token { sequence, .. } | Self::Ended { sequence, .. } => sequence,
        }
    }
}

/// Why a request is over.
///
/// After the first three the sequence has all tokens but the stop token. After an error too, if some token was drawn; else
/// it is as before the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A stop token was drawn: this one.
    Stop(u32),
    /// As many tokens were drawn as were asked for.
    Limit,
    /// The last token that was drawn is behind the end of the context.
    ContextFull,
    /// An error: the sequences hold all blocks, and none could go on. The blocks that the request took are given back: if
    /// the sequence goes on, what was in them is computed again.
    PoolFull {
        /// Blocks that it needed: for the rest of its prompt, or for its next token.
        needed: u32,
        /// Blocks that were free.
        free: u32,
    },
    /// An error: no token could be drawn.
    NoToken,
    /// An error: what the device computed is lost.
    DeviceLost,
}

/// A request that waits or runs.
#[derive(Debug)]
pub(super) struct Request {
    /// Requests are numbered in order of arrival.
    pub(super) number: u64,
    /// Tokens that its sequence had before.
    pub(super) start: u32,
    /// Positions that were computed before.
    pub(super) base: u32,
    /// Tokens with its own.
    pub(super) prompt_end: u32,
    pub(super) want: Want,
    /// Where it runs, if it does.
    pub(super) slot: Option<u32>,
    /// Tokens that submitted rows draw.
    pub(super) draws: u32,
    /// Those of them that the host knows.
    pub(super) confirmed: u32,
}

impl Request {
    /// Tokens that it draws at most.
    pub(super) fn most(&self) -> u32 {
        match self.want {
            Want::Draw { most, .. } => most,
            Want::Last | Want::Next | Want::Each => 0,
        }
    }

    /// Positions at its end, at most.
    pub(super) fn end(&self, context: u32) -> u32 {
        // The last token that is drawn is not computed.
        self.prompt_end.saturating_add(self.most().saturating_sub(1)).min(context)
    }

    /// Where its prompt's rows end.
    pub(super) fn rows_end(&self) -> u32 {
        self.prompt_end - u32::from(self.want == Want::Next)
    }

    /// Whether its prompt's rows have all been submitted.
    pub(super) fn has_rows(&self, table: &Table) -> bool {
        table.len() >= self.rows_end()
    }

    /// Whether the tokens that it appends, and those before, have all been submitted.
    pub(super) fn has_prompt(&self, table: &Table) -> bool {
        table.len() >= self.prompt_end
    }
}
