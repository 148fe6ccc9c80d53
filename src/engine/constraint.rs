//! Constraints of a reply's tokens.

use std::fmt;

/// A constraint of the tokens of a reply, such as a grammar. It is the caller's; the engine asks it for a mask before each token.
///
/// It runs on the host while the device computes other sequences. The sampling kernels apply the mask.
pub trait Constraint: Send {
    /// Sets bit `id % 32` of word `id / 32` of `mask` for every token `id` that may come next. All bits are clear before.
    ///
    /// # Errors
    /// A message: the reply fails with [`EngineError::Constraint`](super::EngineError::Constraint).
    fn mask(&mut self, mask: &mut [u32]) -> Result<(), String>;

    /// Takes in the sampled token, unless it is a stop token.
    ///
    /// # Errors
    /// As [`Constraint::mask`].
    fn accept(&mut self, token: u32) -> Result<(), String>;
}

/// A constraint of a request, with the mask of its next token.
pub(crate) struct Constrained {
    constraint: Box<dyn Constraint>,
    mask: Vec<u32>,
}

impl fmt::Debug for Constrained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Constrained").finish_non_exhaustive()
    }
}

impl Constrained {
    /// Returns a constraint of tokens below `vocab`, with the mask of the first token.
    pub(crate) fn new(constraint: Box<dyn Constraint>, vocab: u32) -> Result<Self, String> {
        let mut constrained = Self { constraint, mask: vec![0; vocab.div_ceil(32) as usize] };
        constrained.renew()?;
        Ok(constrained)
    }

    /// Returns the mask of the next token.
    pub(crate) fn mask(&self) -> &[u32] {
        &self.mask
    }

    /// Returns whether a token is allowed next.
    pub(crate) fn allows(&self, token: u32) -> bool {
        self.mask.get(token as usize / 32).is_some_and(|word| word >> (token % 32) & 1 == 1)
    }

    /// Takes in the sampled token, and computes the mask of the next one if there is to be one.
    pub(crate) fn accept(&mut self, token: u32, more: bool) -> Result<(), String> {
        self.constraint.accept(token)?;
        if more { self.renew() } else { Ok(()) }
    }

    fn renew(&mut self) -> Result<(), String> {
        self.mask.fill(0);
        self.constraint.mask(&mut self.mask)?;
        if self.mask.iter().all(|word| *word == 0) { Err("no token can follow".to_owned()) } else { Ok(()) }
    }
}
