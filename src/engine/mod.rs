//! Sequences and the choice of tokens.

mod error;
mod sampler;
#[allow(dead_code, reason = "sessions do not use it yet")]
mod scheduler;
mod session;

pub use error::EngineError;
pub use sampler::{Sampler, SamplingOptions, argmax};
pub use session::{Session, SessionOptions};
