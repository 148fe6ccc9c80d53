//! Helpers shared by the test modules.

pub mod alone;
pub mod count_up;
pub mod device;
pub mod engines;
pub mod golden;
pub mod kernels;
pub mod micro_model;
#[cfg(feature = "cli")]
pub mod program;
pub mod ranges;
pub mod raw_gguf;
pub mod tiny_model;
pub mod vocabulary;
pub mod within;
