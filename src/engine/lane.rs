//! The passes of one kind: their buffers, and the program that is kept ready.

use std::mem;

use super::{EngineOptions, pace::steady_parts};
use crate::{
    gpu::{Device, GpuError, Plan, Program, Readback},
    kernels::{attn::CHUNK, sample},
    model::{Activations, Decoder, KernelSelection, KvCache, Model, Pass, Phase, Sampling, WorkspaceSize},
};

/// The rows of one kind in a step, as the device is given them.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    /// Tokens, where the host knows them.
    pub(super) ids: Vec<u32>,
    /// Position and slot of each row.
    pub(super) positions: Vec<[u32; 2]>,
    /// Row and slot of each row of logits: those that tokens are drawn from, by their way, then those for the host.
    pub(super) picks: Vec<[u32; 2]>,
    /// Which tokens are drawn how.
    pub(super) draws: sample::Rows,
}

impl Batch {
    /// Rows.
    pub(super) fn len(&self) -> u32 {
        self.positions.len() as u32
    }

    /// Rows of logits that the host wants.
    pub(super) fn host_rows(&self) -> u32 {
        self.picks.len() as u32 - self.draws.count()
    }

    fn pass(&self, phase: Phase) -> Pass {
        let longest = self.positions.iter().map(|[position, _]| position + 1).max().unwrap_or(0);
        // Prompts' rows attend whole: their plan does not depend on it.
        let chunks = if phase == Phase::Decode { longest.div_ceil(CHUNK) } else { 0 };
        Pass { phase, rows: self.len(), chunks, logit_rows: self.picks.len() as u32, draws: self.draws }
    }
}

/// What passes of one kind need.
#[derive(Debug)]
pub(super) struct Lane {
    phase: Phase,
    room: WorkspaceSize,
    pub(super) activations: Activations,
    pub(super) program: Program,
    /// What the program was prepared for.
    pub(super) pass: Option<Pass>,
    /// Logits for the host.
    pub(super) logits: Readback,
}

impl Lane {
    /// Logits of up to two steps are read back at a time.
    pub(super) async fn new(model: &Model, phase: Phase, room: WorkspaceSize) -> Result<Self, GpuError> {
        let device = model.device();
        let activations = Activations::new(device, model.config(), room, model.expert_cache().is_some()).await?;
        let logits = Readback::new::<f32>(device, activations.logits.len(), 2).await?;
        Ok(Self { phase, room, activations, program: Program::new(device), pass: None, logits })
    }

    /// Makes the program that computes `batch` ready, to be sent in `parts` submissions or a few more.
    pub(super) async fn prepare(
        &mut self,
        model: &Model,
        kv: &KvCache,
        sampling: &Sampling,
        options: &EngineOptions,
        batch: &Batch,
        parts: usize,
    ) -> Result<(), GpuError> {
        let (device, pass) = (model.device(), batch.pass(self.phase));
        let parts = steady_parts(self.program.submissions(), parts);
        if self.pass == Some(pass) && self.program.submissions() == parts {
            return Ok(());
        }
        // Should this future be dropped, the program is prepared again.
        let same_plan = mem::take(&mut self.pass) == Some(pass);
        if !same_plan {
            let plan = self.plan(model, kv, sampling, options, options.kernels_on(device), pass)?;
            self.program.prepare(device, plan).await?;
        }
        self.program.split_submissions(device, parts).await?;
        self.pass = Some(pass);
        Ok(())
    }

    pub(super) fn plan(
        &self,
        model: &Model,
        kv: &KvCache,
        sampling: &Sampling,
        options: &EngineOptions,
        kernels: KernelSelection,
        pass: Pass,
    ) -> Result<Plan, GpuError> {
        let decoder = Decoder {
            config: model.config(),
            weights: model.weights(),
            activations: &self.activations,
            kv,
            sampling,
            kernels,
            options: options.plan,
            pass,
        };
        decoder.record()
    }

    /// Compiles the kernels of all passes on `device`: those of the smallest and of the largest, and of the smallest with enough
    /// rows for others; what else kernels are chosen by is whether there is enough of something. The program stays as it is.
    pub(super) async fn compile(
        &self,
        device: &Device,
        model: &Model,
        kv: &KvCache,
        sampling: &Sampling,
        options: &EngineOptions,
    ) -> Result<(), GpuError> {
        let (room, slots, vocab) = (self.room, kv.shape.slots, model.config().vocab);
        let draws = |penalised| sample::Rows { sequences: slots, vocab, greedy: 1, listed: 1, all: 1, penalised };
        let kernels = options.kernels_on(model.device());
        let thresholds = kernels.thresholds(model.config());
        let between = thresholds.into_iter().filter(|rows| (2..room.rows).contains(rows));
        let passes = [(1, 0, 1, false), (room.rows, room.chunks, room.logit_rows, true)];
        for (rows, chunks, logit_rows, penalised) in
            passes.into_iter().chain(between.map(|rows| (rows, 0, rows.min(room.logit_rows), false)))
        {
            let pass = Pass { phase: self.phase, rows, chunks, logit_rows, draws: draws(penalised) };
            self.plan(model, kv, sampling, options, kernels, pass)?.compile(device).await?;
        }
        Ok(())
    }

    /// Returns the most rows of a pass.
    pub(super) fn max_rows(&self) -> u32 {
        self.room.rows
    }

    /// Returns the pass that tuning measures with, of `rows` rows.
    pub(super) fn trial(&self, rows: u32) -> Pass {
        let logit_rows = if self.phase == Phase::Decode { rows.min(self.room.logit_rows) } else { 0 };
        Pass { phase: self.phase, rows, chunks: 0, logit_rows, draws: sample::Rows::default() }
    }

    /// Writes rows of many tokens at the beginning of a sequence.
    pub(super) fn write_trial(
        &self,
        device: &Device,
        sampling: &Sampling,
        vocab: u32,
        pass: &Pass,
    ) -> Result<(), GpuError> {
        let tokens: Vec<u32> = (0..pass.rows).map(|row| row.wrapping_mul(2_654_435_761) % vocab.max(1)).collect();
        let batch = Batch {
            ids: tokens.clone(),
            positions: (0..pass.rows)
                .map(|row| if self.phase == Phase::Prefill { [row, 0] } else { [0, row] })
                .collect(),
            picks: (0..pass.logit_rows).map(|row| [row, row]).collect(),
            draws: pass.draws,
        };
        self.write(device, &batch)?;
        if self.phase == Phase::Decode { device.write_now(&sampling.tokens, 0, &tokens) } else { Ok(()) }
    }

    /// Has the program prepared again: a buffer that it uses is another.
    pub(super) fn forget_program(&mut self) {
        self.pass = None;
    }

    /// Writes what the program reads.
    pub(super) fn write(&self, device: &Device, batch: &Batch) -> Result<(), GpuError> {
        let a = &self.activations;
        if self.phase == Phase::Prefill {
            device.write_now(&a.ids, 0, &batch.ids)?;
        }
        device.write_now(&a.positions, 0, batch.positions.as_flattened())?;
        device.write_now(&a.picks, 0, &batch.picks)
    }
}
