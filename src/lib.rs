//! Runs mixture-of-experts language models (and dense Qwen3 and Llama) from GGUF files on any GPU. Every kernel is WGSL,
//! run through wgpu.
//!
//! [`Chat`] is the front door:
//!
//! ```no_run
//! # async fn example() -> Result<(), ferrum_wgpu::Error> {
//! let mut chat = ferrum_wgpu::Chat::open("model.gguf").await?;
//! let mut reply = chat.say("What is the capital of France?");
//! while let Some(text) = reply.next().await? {
//!     print!("{text}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Behind it is the full API: a [`Gguf`] file is loaded to a [`Device`] as a [`Model`]. An [`Engine`] computes any number
//! of [`Session`]s over it, in common batches, and each [`Reply`] is a stream of tokens. The file's [`Tokenizer`] and
//! [`ChatTemplate`] convert between text and tokens.
//!
//! ```no_run
//! use ferrum_wgpu::{Adapter, Device, Engine, EngineOptions, Error, GenerateOptions, Gguf, Model, Tokenizer};
//!
//! async fn complete(path: &str, beginning: &str) -> Result<String, Error> {
//!     let gguf = Gguf::open(path)?;
//!     let device = Device::new(&Adapter::find(None).await?).await?;
//!     let model = Model::load(&device, &gguf, |_sent, _total| ()).await?;
//!     let tokenizer = Tokenizer::from_gguf(&gguf)?;
//!     let engine = Engine::new(&model, &EngineOptions::default().context(4096)).await?;
//!     let mut session = engine.session();
//!     let options = GenerateOptions::default().max_tokens(100);
//!     let mut reply = session.generate(&tokenizer.encode_prompt(beginning)?, &options)?;
//!     let mut tokens = Vec::new();
//!     while let Some(token) = reply.next().await? {
//!         tokens.push(token);
//!     }
//!     Ok(tokenizer.decode(&tokens)?)
//! }
//! ```
//!
//! The library prints nothing, reads no environment and keeps no globals. All functions that use a device are async and
//! their futures are `Send`; any executor can run them. No future blocks its thread
//! while a GPU computes, unless [`Device::set_wait_mode`] says so. With the feature `blocking` there is `block_on` for programs
//! without an executor.
//!
//! # Features
//!
//! - `cli` (default): the command line program. Libraries depend with `default-features = false`.
//! - `blocking`: `block_on`.
//! - `api`: requests and responses of OpenAI's and Anthropic's HTTP APIs, without a server.
//! - `constraint`: replies constrained by JSON schemas, regular expressions and grammars.
//! - `serve` (default): the HTTP server.
//! - `serde`: `Serialize` and `Deserialize` for options, messages, roles and tuning.
//! - `test-util`: hooks for tests: fault injection, counters, random weights, a GGUF writer. Not covered by semantic
//!   versioning.
//!
//! wgpu is part of the public API and re-exported as [`wgpu`]: a new major version of it is one of this crate.
// wgpu's types are deeply nested, which matters for the `Send` check of futures.
#![recursion_limit = "256"]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(missing_docs, unsafe_code)]

#[macro_use]
mod setters;

#[cfg(feature = "api")]
#[cfg_attr(docsrs, doc(cfg(feature = "api")))]
pub mod api;
mod conformance;
mod engine;
pub mod gguf;
mod gpu;
#[cfg(feature = "constraint")]
mod grammar;
mod kernels;
mod kv;
mod model;
mod quant;
#[cfg(all(feature = "serve", not(target_arch = "wasm32")))]
#[cfg_attr(docsrs, doc(cfg(feature = "serve")))]
pub mod serve;
mod text;

mod chat;
mod check;
mod error;
mod names;

pub use chat::{Chat, ChatBuilder, ChatProgress, ChatReply, MakeConstraint};
pub use conformance::{DeviceCheck, WrongResult};
pub use engine::{
    BlockUsage, Constraint, EmbedOptions, Engine, EngineError, EngineOptions, FinishReason, Fit, GenerateOptions,
    LookupStats, Pooling, Profile, Progress, Reply, SamplingOptions, Session, TokenLogprobs,
};
pub use error::Error;
pub use gguf::{Gguf, GgufError};
pub use gpu::{Adapter, AdapterKind, Device, GpuError, Requirements, WaitMode};
#[cfg(feature = "constraint")]
#[cfg_attr(docsrs, doc(cfg(feature = "constraint")))]
pub use grammar::{Grammar, GrammarCompiler, GrammarError};
pub use kernels::KvType;
pub use model::{Architecture, Config, MemoryPlan, Model, ModelError, Precision, Tuning};
pub use names::UnknownName;
#[cfg(all(feature = "blocking", not(target_arch = "wasm32")))]
#[cfg_attr(docsrs, doc(cfg(feature = "blocking")))]
pub use pollster::block_on;
pub use text::{ChatTemplate, DecodeStream, Json, Message, RenderOptions, Role, StopStrings, TextError, Tokenizer};
pub use wgpu;

/// The layers below the engine: GPU programs, kernels, quantization formats, model plans, and the conformance suite.
///
/// **Unstable**: not covered by semantic versioning. Any release may change these items.
pub mod low_level {
    /// The conformance suite: kernels and models compared with reference implementations.
    pub mod conformance {
        #[doc(inline)]
        pub use crate::conformance::*;
    }
    /// Statistics and tuning of engines.
    pub mod engine {
        #[doc(inline)]
        pub use crate::engine::*;
    }
    /// Buffers, programs and kernels on a device.
    pub mod gpu {
        #[doc(inline)]
        pub use crate::gpu::*;
    }
    /// The compute kernels.
    pub mod kernels {
        #[doc(inline)]
        pub use crate::kernels::*;
    }
    /// The block pool of the KV cache.
    pub mod kv {
        #[doc(inline)]
        pub use crate::kv::*;
    }
    /// Model plans and kernel selection.
    pub mod model {
        #[doc(inline)]
        pub use crate::model::*;
    }
    /// Quantization formats of GGUF tensors.
    pub mod quant {
        #[doc(inline)]
        pub use crate::quant::*;
    }
    /// The raw data of tokenizers.
    pub mod text {
        #[doc(inline)]
        pub use crate::text::*;
    }
}

/// Compiles the README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
