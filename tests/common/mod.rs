//! What several test programs share. Each uses only a part of it.
#![allow(dead_code)]

pub mod device;
pub mod engines;
pub mod golden;
pub mod raw_gguf;
pub mod smallest;
pub mod tiny_model;
pub mod within;
