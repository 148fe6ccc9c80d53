//! Runs mixture-of-experts language models (and dense Qwen3 and Llama) from GGUF files on any GPU: every kernel in WGSL,
//! run through wgpu.
//!
//! A file is a [`gguf::Gguf`]; with a [`gpu::Device`] it becomes a [`model::Model`], and for that an [`engine::Engine`]
//! computes any number of sequences. [`text`] has the file's tokenizer and chat template.
//!
//! ```no_run
//! use ferrum_wgpu::{
//!     Error,
//!     engine::{Engine, EngineOptions, GenerateOptions},
//!     gguf::Gguf,
//!     gpu::{Adapter, Device},
//!     model::Model,
//!     text::Tokenizer,
//! };
//!
//! async fn go_on(path: &str, beginning: &str) -> Result<String, Error> {
//!     let gguf = Gguf::open(path)?;
//!     let device = Device::new(&Adapter::find(None).await?).await?;
//!     let model = Model::load(&device, &gguf, |_sent, _total| ()).await?;
//!     let tokenizer = Tokenizer::from_gguf(&gguf)?;
//!     let engine = Engine::new(&model, &EngineOptions::default()).await?;
//!     let mut session = engine.session();
//!     let options = GenerateOptions { max_tokens: Some(100), ..GenerateOptions::default() };
//!     let mut reply = session.generate(&tokenizer.encode_prompt(beginning)?, &options)?;
//!     let mut tokens = Vec::new();
//!     while let Some(token) = reply.next().await? {
//!         tokens.push(token);
//!     }
//!     Ok(tokenizer.decode(&tokens)?)
//! }
//! ```
//!
//! The library prints nothing, reads no environment and keeps no globals. All functions that touch a device are async;
//! natively any executor drives them, and with the feature `blocking` there is `block_on` for callers without one. They are
//! `Send`. No future blocks its thread while a GPU computes, unless [`gpu::Device::set_wait_mode`] says so.
// wgpu's types are deeply nested, which matters for the `Send` check of futures.
#![recursion_limit = "256"]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![deny(missing_docs, unsafe_code)]

#[doc(hidden)]
pub mod conformance;
#[doc(hidden)]
pub mod engine;
pub mod gguf;
#[doc(hidden)]
pub mod gpu;
#[doc(hidden)]
pub mod kernels;
#[doc(hidden)]
pub mod kv;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod quant;
#[doc(hidden)]
pub mod text;

mod error;
mod names;

pub use engine::{
    BlockUsage, Engine, EngineError, EngineOptions, FinishReason, Fit, GenerateOptions, Profile, Progress, Reply,
    SamplingOptions, Session,
};
pub use error::Error;
pub use gguf::{Gguf, GgufError};
pub use gpu::{Adapter, AdapterKind, Device, GpuError, Requirements, WaitMode};
pub use kernels::KvType;
pub use model::{Architecture, Config, MemoryPlan, Model, ModelError, Precision, Tuning};
pub use names::UnknownName;
#[cfg(all(feature = "blocking", not(target_arch = "wasm32")))]
#[cfg_attr(docsrs, doc(cfg(feature = "blocking")))]
pub use pollster::block_on;
pub use text::{ChatTemplate, DecodeStream, Message, RenderOptions, Role, StopStrings, TextError, Tokenizer};
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
