//! Sequences, whose turn it is, and the choice of tokens.

mod copies;
mod drive;
#[expect(clippy::module_inception, reason = "the engine is what the module is about")]
mod engine;
mod error;
mod lane;
mod options;
mod pace;
mod profile;
mod runner;
mod sampler;
mod schedule;
mod scheduler;
mod session;
mod turn;

pub use engine::Engine;
pub use error::EngineError;
pub use options::{EngineOptions, KvLayout};
pub use profile::{DecodePass, Phase, PhaseTotal, Profile, Stage, StageTotal};
pub use sampler::{Sampler, SamplingOptions, argmax};
pub use session::{GenerateOptions, Progress, Reply, Session, Stop};
