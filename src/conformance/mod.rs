//! Does this GPU with this driver compute right?
//!
//! A [`Suite`] runs the kernels' own test cases on a device: a case's inputs go through one dispatch, and every written
//! buffer is compared with the definition in f64 within the bound that the kernel documents. [`replay`] does the same with
//! the dispatches of a real forward pass. What is known to fail on some adapter is in [`EXPECTATIONS`], with the reason.
//! [`catalog`] lists what there is, and [`coverage`] is docs/KERNELS.md, with the [`STACKS`] that judge each variant.

mod catalog;
mod expectations;
mod matrices;
mod replay;
mod report;
mod stacks;
mod suite;
mod trial;

pub use catalog::{KernelEntry, VariantEntry, catalog, coverage};
pub use expectations::{EXPECTATIONS, Expectation, Target};
pub use matrices::check_matrices;
pub use replay::{Replayed, replay};
pub use report::{Outcome, Report, Verdict};
pub use stacks::{Feature, Judgement, STACKS, Stack};
pub use suite::Suite;
