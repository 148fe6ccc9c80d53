//! Where the time of steps goes.

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

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Prefill => "prefill",
            Self::Decode => "decode",
            Self::BatchedDecode => "batched decode",
        }
    }
}

/// What a stage took in all passes of a phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTotal {
    /// By the device's clock.
    pub time: Duration,
    /// Dispatches.
    pub dispatches: u64,
}

/// What the passes of a phase took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PhaseTotal {
    /// Passes.
    pub passes: u64,
    /// Tokens of all passes.
    pub rows: u64,
    /// The stages in order.
    pub stages: BTreeMap<Stage, StageTotal>,
}

/// What the pass is made of that computes a drawn token of each of some sequences.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DecodePass {
    /// Tokens that it computes, each of another sequence.
    pub rows: u32,
    /// Dispatches.
    pub dispatches: usize,
    /// Those of them that belong to a layer.
    pub layer_dispatches: usize,
    /// Bytes of weights that its dispatches read: of each those that its grid covers, once.
    pub weight_bytes: f64,
}

/// Where the time of an engine's steps went, by phase and stage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The phases that there were.
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
