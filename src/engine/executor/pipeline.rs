//! The passes of one phase, prefill or decode: their buffers and programs.

use super::{
    input::{PassInput, Runs},
    program_cache::ProgramCache,
    submit_budget::MIN_PREFILL_ROWS,
};
use crate::{
    engine::{EngineOptions, scheduler::RunStates},
    gpu::{Device, GpuError, Plan, Program, Readback},
    kernels::sample,
    model::{Activations, Decoder, KernelSelection, KvCache, Model, Pass, Phase, Sampling, WorkspaceSize},
};

/// Decode programs that are kept: batches of some sizes, attending to contexts of some lengths.
const DECODE_PROGRAMS: usize = 16;

/// Prefill programs that are kept: whole chunks, and some of the rests of prompts.
const PREFILL_PROGRAMS: usize = 4;

/// Steps whose logits or hidden states are read back at once.
const STEPS_IN_FLIGHT: usize = 2;

/// The buffers and programs of the passes of one phase.
#[derive(Debug)]
pub(super) struct PhasePipeline {
    phase: Phase,
    size: WorkspaceSize,
    pub(super) activations: Activations,
    programs: ProgramCache,
    /// Logits for the host.
    pub(super) logits: Readback,
    /// Hidden states for the host; `None` until some are wanted.
    pub(super) hidden: Option<Readback>,
}

/// What plans are made of beside a phase's own buffers.
#[derive(Clone, Copy, Debug)]
pub(super) struct PlanContext<'a> {
    pub(super) model: &'a Model,
    pub(super) kv: &'a KvCache,
    pub(super) sampling: &'a Sampling,
    pub(super) options: &'a EngineOptions,
}

impl PlanContext<'_> {
    /// Returns the tuned selection of the engine's options.
    fn kernels(&self) -> KernelSelection {
        self.options.kernels_on(self.model.device())
    }
}

impl PhasePipeline {
    /// Allocates the buffers of passes of up to `size`.
    pub(super) async fn new(model: &Model, phase: Phase, size: WorkspaceSize) -> Result<Self, GpuError> {
        let device = model.device();
        let activations = Activations::new(device, model.config(), size, model.expert_cache().is_some()).await?;
        let logits = Readback::new::<f32>(device, activations.logits.len(), STEPS_IN_FLIGHT).await?;
        let capacity = match phase {
            Phase::Prefill => PREFILL_PROGRAMS,
            Phase::Decode => DECODE_PROGRAMS,
        };
        let programs = ProgramCache::new(device, capacity);
        Ok(Self { phase, size, activations, programs, logits, hidden: None })
    }

    /// Returns the program of the last prepared pass, with its shape.
    pub(super) fn current(&self) -> Option<(Pass, &Program)> {
        self.programs.current()
    }

    /// Prepares the program that computes `input`, to be sent in `parts` submissions or a few more. May be dropped and called
    /// again.
    pub(super) async fn prepare(
        &mut self,
        context: PlanContext<'_>,
        input: &PassInput,
        parts: usize,
    ) -> Result<(), GpuError> {
        let (device, pass, activations) = (context.model.device(), input.pass(self.phase), &self.activations);
        if pass.hidden_rows > 0 && self.hidden.is_none() {
            self.hidden = Some(Readback::new::<f32>(device, activations.normed.len(), STEPS_IN_FLIGHT).await?);
        }
        self.programs.prepare(device, pass, parts, || plan(activations, context, context.kernels(), pass)).await
    }

    /// Records the plan of a pass.
    pub(super) fn plan(
        &self,
        context: PlanContext<'_>,
        kernels: KernelSelection,
        pass: Pass,
    ) -> Result<Plan, GpuError> {
        plan(&self.activations, context, kernels, pass)
    }

    /// Records the plans that contain the kernels of all passes: those of the smallest pass first. Kernels are chosen by
    /// thresholds of sizes: the smallest and the largest pass, and the smallest one above each threshold, contain them all.
    pub(super) fn all_plans(&self, context: PlanContext<'_>) -> Result<Vec<Plan>, GpuError> {
        let (size, config) = (self.size, context.model.config());
        let draws = |penalised| sample::Rows {
            sequences: context.options.decode_rows(),
            vocab: config.vocab,
            greedy: 1,
            top_k: 1,
            full_vocab: 1,
            penalised,
        };
        let kernels = context.kernels();
        let thresholds = kernels.thresholds(config);
        let between = thresholds.into_iter().filter(|rows| (2..size.rows).contains(rows));
        let largest = (size.rows, size.chunks, size.logit_rows, true);
        let passes = std::iter::once((1, 0, 1, false))
            .chain(between.map(|rows| (rows, 0, rows.min(size.logit_rows), false)))
            .chain([largest]);
        let mut plans = Vec::new();
        for (rows, chunks, logit_rows, penalised) in passes {
            // Runs of one row have kernels of their own.
            let runs = if config.delta_net.is_none() { 0 } else { rows };
            let draws = draws(penalised);
            let pass = Pass { phase: self.phase, rows, runs, chunks, logit_rows, hidden_rows: 0, draws, drafts: false };
            plans.push(self.plan(context, kernels, pass)?);
            if runs > 1 {
                plans.push(self.plan(context, kernels, Pass { runs: 1, ..pass })?);
            }
        }
        if self.phase == Phase::Decode && context.options.lookup > 0 {
            for chunks in [0, size.chunks] {
                let (rows, logit_rows, runs) = (size.rows, size.logit_rows, u32::from(config.delta_net.is_some()));
                let draws = draws(false);
                let pass =
                    Pass { phase: self.phase, rows, runs, chunks, logit_rows, hidden_rows: 0, draws, drafts: true };
                plans.push(self.plan(context, kernels, pass)?);
            }
        }
        Ok(plans)
    }

    /// Records the plan of the phase's pass in the reply to a short prompt: the kernels that a first reply waits for. It samples
    /// greedily or among the most probable tokens.
    pub(super) fn first_plan(&self, context: PlanContext<'_>) -> Result<Plan, GpuError> {
        let config = context.model.config();
        let rows = match self.phase {
            Phase::Prefill => self.size.rows.min(MIN_PREFILL_ROWS),
            Phase::Decode => 1,
        };
        let (sequences, vocab) = (context.options.decode_rows(), config.vocab);
        let draws = sample::Rows { sequences, vocab, greedy: 1, top_k: 1, full_vocab: 0, penalised: false };
        let runs = u32::from(config.delta_net.is_some());
        let pass =
            Pass { phase: self.phase, rows, runs, chunks: 0, logit_rows: 1, hidden_rows: 0, draws, drafts: false };
        self.plan(context, context.kernels(), pass)
    }

    /// Returns the most rows of a pass.
    pub(super) fn max_rows(&self) -> u32 {
        self.size.rows
    }

    /// Returns the pass that tuning measures with, of `rows` rows.
    pub(super) fn trial(&self, rows: u32) -> Pass {
        let logit_rows = if self.phase == Phase::Decode { rows.min(self.size.logit_rows) } else { 0 };
        let runs = match (&self.activations.delta_net, self.phase) {
            (None, _) => 0,
            (Some(_), Phase::Prefill) => 1,
            (Some(_), Phase::Decode) => rows,
        };
        let draws = sample::Rows::default();
        Pass { phase: self.phase, rows, runs, chunks: 0, logit_rows, hidden_rows: 0, draws, drafts: false }
    }

    /// Writes the input of a trial: rows of many tokens at the start of a sequence.
    pub(super) fn write_trial(
        &self,
        device: &Device,
        sampling: &Sampling,
        vocab: u32,
        pass: &Pass,
    ) -> Result<(), GpuError> {
        let tokens: Vec<u32> = (0..pass.rows).map(|row| row.wrapping_mul(2_654_435_761) % vocab.max(1)).collect();
        let position_of = |row| if self.phase == Phase::Prefill { [row, 0] } else { [0, row] };
        let mut runs = Runs::default();
        (0..pass.runs).for_each(|_| runs.add(pass.rows / pass.runs, &RunStates::default()));
        let input = PassInput {
            runs,
            ids: tokens.clone(),
            positions: (0..pass.rows).map(position_of).collect(),
            places: Vec::new(),
            logit_rows: (0..pass.logit_rows).map(|row| [row, row]).collect(),
            hidden_rows: Vec::new(),
            sampled: pass.draws,
        };
        self.write(device, &input)?;
        if self.phase == Phase::Decode { device.write_now(&sampling.tokens, 0, &tokens) } else { Ok(()) }
    }

    /// Forgets all programs: a buffer of their plans was replaced.
    pub(super) fn invalidate_programs(&mut self) {
        self.programs.invalidate();
    }

    /// Writes the input of a pass.
    pub(super) fn write(&self, device: &Device, input: &PassInput) -> Result<(), GpuError> {
        let a = &self.activations;
        if self.phase == Phase::Prefill {
            device.write_now(&a.ids, 0, &input.ids)?;
        }
        device.write_now(&a.positions, 0, input.positions.as_flattened())?;
        if !input.places.is_empty() {
            device.write_now(&a.places, 0, input.places.as_flattened())?;
        }
        if let Some(net) = &a.delta_net {
            device.write_now(&net.rows, 0, &input.runs.rows)?;
            device.write_now(&net.runs, 0, &input.runs.first)?;
        }
        device.write_now(&a.picks, 0, &input.logit_rows)?;
        device.write_now(&a.picks, input.logit_rows.len() as u64, &input.hidden_rows)
    }
}

fn plan(
    activations: &Activations,
    context: PlanContext<'_>,
    kernels: KernelSelection,
    pass: Pass,
) -> Result<Plan, GpuError> {
    let PlanContext { model, kv, sampling, options } = context;
    let decoder = Decoder {
        config: model.config(),
        weights: model.weights(),
        activations,
        kv,
        sampling,
        kernels,
        options: options.plan,
        pass,
    };
    decoder.record()
}
