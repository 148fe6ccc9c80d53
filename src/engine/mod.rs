//! The engine: continuous batching of many sequences over one model.
//!
//! An [`Engine`] has the KV cache and schedules requests. A [`Session`] is a sequence of tokens, and a [`Reply`] a stream of
//! tokens generated at its end. Sessions can be awaited from any number of tasks or threads; each awaiting task can drive
//! the device for all.
//!
//! Inside, a [`Scheduler`](scheduler::Scheduler) plans steps, an [`Executor`](executor::Executor) computes them, and the engine
//! adds locks and wakers.
//!
//! ```
//! # use ferrum_wgpu::{Device, Error, Gguf, Model};
//! use ferrum_wgpu::{Engine, EngineOptions, GenerateOptions, SamplingOptions};
//!
//! # async fn example() -> Result<(), Error> {
//! # let gguf = Gguf::open("models/demo-q4_k_m.gguf")?;
//! # let model = Model::load(&Device::cpu(), &gguf, |_, _| ()).await?;
//! let options = EngineOptions::default().sequences(2).context(64);
//! let engine = Engine::new(&model, &options).await?;
//! let mut session = engine.session();
//! let greedy = SamplingOptions::greedy();
//! let options = GenerateOptions::default().sampling(greedy).max_tokens(2);
//! let mut reply = session.generate(&[1, 2, 3], &options)?;
//! while let Some(token) = reply.next().await? {
//!     println!("{token}");
//! }
//! // The reply is a part of the sequence now. A fork shares its KV blocks, and goes on for itself.
//! assert_eq!(session.len(), 5);
//! let mut other = session.fork()?;
//! let logits = other.forward(&[4]).await?;
//! assert_eq!((other.len(), session.len()), (6, 5));
//! assert_eq!(logits.len(), engine.config().vocab as usize);
//! # Ok(())
//! # }
//! # pollster::block_on(example()).unwrap();
//! ```

mod constraint;
mod embedding;
#[expect(clippy::module_inception, reason = "the module is named after its main type")]
mod engine;
mod error;
mod executor;
mod fit;
mod logprobs;
mod mirostat;
mod options;
mod profile;
mod reply;
mod requirements;
mod sampler;
mod scheduler;
mod session;
mod shared_executor;
mod step_runner;
mod tune;
mod wakers;

pub use constraint::Constraint;
pub use embedding::{EmbedOptions, Pooling};
pub use engine::{BlockUsage, Engine};
pub use error::EngineError;
pub use fit::Fit;
pub use logprobs::TokenLogprobs;
pub use options::{EngineOptions, KvLayout};
pub use profile::{DecodePass, PassKind, PhaseTotal, Profile, Stage, StageTotal};
pub use reply::{Progress, Reply};
pub use sampler::{Sampler, SamplingOptions, argmax};
pub use scheduler::{FinishReason, LookupStats};
pub use session::{GenerateOptions, Session};
pub use tune::{Timing, Tuned};
