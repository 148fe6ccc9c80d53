//! Many sequences over one model: whose turn it is, and the choice of tokens.
//!
//! An [`Engine`] has the KV cache and the schedule, a [`Session`] is a sequence of it, and a [`Reply`] what is generated at
//! its end. Sessions are awaited from any number of tasks or threads; whoever awaits drives the device for all.
//!
//! ```
//! # use ferrum_wgpu::{Error, gguf::Gguf, gpu::Device, model::Model};
//! use ferrum_wgpu::engine::{Engine, EngineOptions, GenerateOptions, SamplingOptions};
//!
//! # async fn example() -> Result<(), Error> {
//! # let gguf = Gguf::open("models/demo-q4_k_m.gguf")?;
//! # let model = Model::load(&Device::cpu(), &gguf, |_, _| ()).await?;
//! let options = EngineOptions { sequences: 2, context: Some(64), ..EngineOptions::default() };
//! let engine = Engine::new(&model, &options).await?;
//! let mut session = engine.session();
//! let greedy = SamplingOptions::greedy();
//! let options = GenerateOptions { sampling: greedy, max_tokens: Some(2), ..GenerateOptions::default() };
//! let mut reply = session.generate(&[1, 2, 3], &options)?;
//! while let Some(token) = reply.next().await? {
//!     println!("{token}");
//! }
//! drop(reply);
//! // The reply is a part of the sequence now. A fork shares what is computed of it, and goes on for itself.
//! assert_eq!(session.len(), 5);
//! let mut other = session.fork()?;
//! let logits = other.forward(&[4]).await?;
//! assert_eq!((other.len(), session.len()), (6, 5));
//! assert_eq!(logits.len(), engine.config().vocab as usize);
//! # Ok(())
//! # }
//! # pollster::block_on(example()).unwrap();
//! ```

mod copies;
mod drive;
#[expect(clippy::module_inception, reason = "the engine is what the module is about")]
mod engine;
mod error;
mod fit;
mod lane;
mod options;
mod pace;
mod profile;
mod requirements;
mod runner;
mod sampler;
mod schedule;
mod scheduler;
mod session;
mod tune;
mod turn;

pub use engine::Engine;
pub use error::EngineError;
pub use fit::Fit;
pub use options::{EngineOptions, KvLayout};
pub use profile::{DecodePass, PassKind, PhaseTotal, Profile, Stage, StageTotal};
pub use sampler::{Sampler, SamplingOptions, argmax};
pub use session::{GenerateOptions, Progress, Reply, Session, Stop};
pub use tune::{Timing, Tuned};
