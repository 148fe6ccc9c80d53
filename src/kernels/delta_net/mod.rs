//! Gated delta nets (Yang et al. 2024, arXiv:2412.06464), the linear attention of Qwen3-Next, Qwen3.5 and Qwen3.6.
//!
//! A layer's pass, after the projections of its rows:
//!
//! 1. [`CausalConv`](causal_conv::CausalConv): convolution, SiLU and L2 norm, and the gates, into prepared rows.
//! 2. [`ConvWindow`](conv_window::ConvWindow): the convolution's state, where runs may have several rows. Runs of one row have
//!    it stored by `CausalConv`.
//! 3. [`GatedDeltaRule`](gated_delta_rule::GatedDeltaRule): the recurrence.
//! 4. [`GatedRmsNorm`](gated_rms_norm::GatedRmsNorm): the norm of its output, gated.
//!
//! All take a batch of [runs](RowRun) of any length. A row's result does not depend on the other runs of a dispatch.

pub mod causal_conv;
pub mod conv_window;
pub mod gated_delta_rule;
pub mod gated_rms_norm;
mod runs;

pub use runs::{NO_SLOT, RowRun};

use crate::gpu::param_group;

/// The largest size of a head. All are multiples of four.
pub const MAX_HEAD_DIM: u32 = 128;

/// The taps of the convolution: a row's own input, and those of the rows before it.
pub const CONV_TAPS: u32 = 4;

/// The rows of the convolution's state: the last inputs.
pub const WINDOW: u32 = CONV_TAPS - 1;

param_group! {
    /// The heads of a gated delta net. Value head `h` has key head `h / repeat % key_heads`.
    pub struct DeltaHeads {
        /// Heads of queries and keys.
        key_heads: u32,
        /// Heads of values.
        value_heads: u32,
        /// Neighbouring value heads that share a key head: 1 in Qwen3.5, `value_heads / key_heads` in Qwen3-Next.
        repeat: u32,
        /// Elements of a head of any kind: a multiple of four, at most [`MAX_HEAD_DIM`].
        head_dim: u32,
    }
}

impl DeltaHeads {
    /// Returns the channels of the convolution: queries, keys, values.
    pub fn channels(&self) -> u32 {
        (2 * self.key_heads + self.value_heads) * self.head_dim
    }

    /// Returns the elements of a row of values, and of the output.
    pub fn values(&self) -> u32 {
        self.value_heads * self.head_dim
    }

    /// Returns the elements of a prepared row: the channels, then decay and β of each value head, padded to a multiple of
    /// four.
    pub fn prepared(&self) -> u32 {
        (self.channels() + 2 * self.value_heads).next_multiple_of(4)
    }

    /// Returns the elements of a slot of the convolution's state.
    pub fn window(&self) -> u32 {
        WINDOW * self.channels()
    }

    /// Returns the elements of a slot of the delta rule's state.
    pub fn state(&self) -> u32 {
        self.values() * self.head_dim
    }

    /// Returns the key head of a value head.
    fn key_head(&self, value_head: usize) -> usize {
        value_head / self.repeat as usize % self.key_heads as usize
    }
}
