//! Profiles: the time of steps by phase and stage.

use std::{collections::BTreeMap, time::Duration};

pub use crate::gpu::Stage;
use crate::{gpu::StageTime, model::Phase};

/// The kind of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PassKind {
    /// Prefill.
    Prefill,
    /// Decode of one sequence.
    Decode,
    /// Decode of several sequences.
    BatchedDecode,
}

impl PassKind {
    pub(super) fn of(phase: Phase, rows: u32) -> Self {
        match (phase, rows) {
            (Phase::Prefill, _) => Self::Prefill,
            (Phase::Decode, 1) => Self::Decode,
            (Phase::Decode, _) => Self::BatchedDecode,
        }
    }

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::BatchedDecode => "batched decode",
        }
    }
}

/// The totals of a stage over all passes of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTotal {
    /// The time by the device's clock.
    pub time: Duration,
    /// Dispatches.
    pub dispatches: u64,
}

/// The totals of the passes of a kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PhaseTotal {
    /// Passes.
    pub passes: u64,
    /// The tokens of all passes.
    pub rows: u64,
    /// The stages in order.
    pub stages: BTreeMap<Stage, StageTotal>,
}

/// A decode pass.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DecodePass {
    /// Its tokens, each of another sequence.
    pub rows: u32,
    /// Dispatches.
    pub dispatches: usize,
    /// Dispatches of the layers.
    pub layer_dispatches: usize,
    /// Bytes of weights that its dispatches read, each counted once per dispatch whose grid covers it.
    pub weight_bytes: f64,
}

/// The time of an engine's steps by kind of pass and stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Profile {
    /// The kinds of passes so far.
    pub phases: BTreeMap<PassKind, PhaseTotal>,
}

impl Profile {
    pub(super) fn add(&mut self, phase: PassKind, rows: u32, stages: &[StageTime]) {
        let total = self.phases.entry(phase).or_default();
        total.passes += 1;
        total.rows += u64::from(rows);
        for stage in stages {
            let sum = total.stages.entry(stage.scope.stage).or_default();
            sum.time += stage.time;
            sum.dispatches += stage.dispatches as u64;
        }
    }
}
