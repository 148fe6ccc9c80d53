//! Tests of whether a GPU with its driver computes correctly.
//!
//! A [`Suite`] runs the kernels' test cases on a device: each case is one dispatch, and every written buffer is compared with
//! the f64 reference within the kernel's documented bound. [`replay`] does the same with the dispatches of a real forward
//! pass. [`catalog`] lists the kernels with their variants: those *supported*, which a plan can record on some device, and
//! those *covered*, which the suite runs.

mod catalog;
mod check;
mod feature;
mod replay;
mod report;
mod suite;

pub use crate::kernels::trial::Outcome;
pub use catalog::{KernelEntry, VariantEntry, catalog};
pub use check::{DeviceCheck, WrongResult};
pub use feature::Feature;
pub use replay::{Replayed, replay};
pub use report::Report;
pub use suite::Suite;
