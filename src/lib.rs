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
//! `Send`, so that it may be done from any thread. Waiting
//! for a device of ours blocks the thread for as long as the GPU takes; for an application's own device
//! ([`gpu::Device::from_wgpu`]) nothing blocks, nor in a browser.
// wgpu's types are nested deeply, which counts when it is found out whether a future may go to another thread.
#![recursion_limit = "256"]
#![deny(missing_docs, unsafe_code)]

pub mod conformance;
pub mod engine;
pub mod gguf;
pub mod gpu;
pub mod kernels;
pub mod kv;
pub mod model;
pub mod quant;
pub mod text;

mod error;

pub use error::Error;
#[cfg(all(feature = "blocking", not(target_arch = "wasm32")))]
pub use pollster::block_on;
pub use wgpu;

/// Its example is compiled with the others.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
