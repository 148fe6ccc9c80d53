//! Runs mixture-of-experts language models (and dense Qwen3 and Llama) from GGUF files on any GPU: every kernel in WGSL,
//! run through wgpu.
//!
//! The library prints nothing, reads no environment and keeps no globals. All functions that touch a device are async;
//! natively any executor drives them, as `pollster::block_on`, and they are `Send`, so that it may do so from any thread. Waiting
//! for a device of ours blocks the thread for as long as the GPU takes; for an application's own device
//! ([`gpu::Device::from_wgpu`]) nothing blocks.
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
