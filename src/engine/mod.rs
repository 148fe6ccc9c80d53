//! Sequences and the choice of tokens.

mod error;
mod sampler;
mod session;

pub use error::EngineError;
pub use sampler::{Sampler, SamplingOptions, argmax};
pub use session::{Session, SessionOptions};
