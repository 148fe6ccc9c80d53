use super::SequenceId;
use crate::kv::BlockCopy;

/// A step's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StepId(pub(super) u64);

/// A step that is not the one that is expected: it is to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the step is out of date")]
pub(crate) struct Stale;

/// The rows that are computed together. They are numbered: first those of `decode`, then those of `prompts`, in order.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) id: StepId,
    /// Run before anything else. No block is both read and written, nor written twice.
    pub(crate) copies: Vec<BlockCopy>,
    /// What changes in the slots' lists of blocks, before any row is computed.
    pub(crate) blocks: Vec<SlotBlocks>,
    /// A row for each sequence that draws.
    pub(crate) decode: Vec<DecodeRow>,
    /// Rows of prompts.
    pub(crate) prompts: Vec<PromptRows>,
    /// What is done with some rows' logits, in order of the rows.
    pub(crate) picks: Vec<Pick>,
}

/// The blocks of a slot from number `first` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotBlocks {
    pub(crate) slot: u32,
    pub(crate) first: u32,
    pub(crate) blocks: Vec<u32>,
}

/// The row of a token that was drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DecodeRow {
    pub(crate) sequence: SequenceId,
    pub(crate) request: u64,
    pub(crate) slot: u32,
    pub(crate) position: u32,
    /// The token, if the host knows it. Unless it is given it is what was drawn last for the slot.
    pub(crate) token: Option<u32>,
    /// The token was not drawn: the device does not know it.
    pub(crate) given: bool,
}

/// Some of a prompt's rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PromptRows {
    pub(crate) sequence: SequenceId,
    pub(crate) request: u64,
    pub(crate) slot: u32,
    /// The position of the first.
    pub(crate) position: u32,
    pub(crate) tokens: Vec<u32>,
}

/// A row whose logits are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pick {
    pub(crate) row: u32,
    pub(crate) sequence: SequenceId,
    pub(crate) request: u64,
    pub(crate) slot: u32,
    pub(crate) give: Give,
}

/// What is done with a row's logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Give {
    /// A token is drawn for the slot, and told to the host.
    Draw,
    /// The host gets them.
    Logits {
        /// They are the last of their request.
        last: bool,
    },
}

impl Step {
    /// Its rows.
    pub(crate) fn rows(&self) -> u32 {
        (self.decode.len() + self.prompts.iter().map(|rows| rows.tokens.len()).sum::<usize>()) as u32
    }

    /// The sequences that have rows in it.
    pub(crate) fn sequences(&self) -> impl Iterator<Item = SequenceId> {
        self.decode.iter().map(|row| row.sequence).chain(self.prompts.iter().map(|rows| rows.sequence))
    }

    /// The sequences for which a token is drawn, in order of the rows.
    #[cfg(test)]
    pub(crate) fn draws(&self) -> impl Iterator<Item = SequenceId> {
        self.picks.iter().filter(|pick| pick.give == Give::Draw).map(|pick| pick.sequence)
    }
}
