//! Runs mixture-of-experts language models (and dense Qwen3 and Llama) from GGUF files on any GPU: every kernel in WGSL,
//! run through wgpu.
//!
//! The library prints nothing, reads no environment and keeps no globals. All functions that touch a device are async;
//! natively they can be driven by any executor, as `pollster::block_on`.
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
pub use wgpu;
