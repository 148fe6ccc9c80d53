//! The executor: computes steps on a device. A step's plan goes in, its output comes out.
//!
//! Prefill and decode each have a [`PhasePipeline`] with their buffers and cached programs. A step is made of a pass of each
//! phase with rows in it. Its results are read back while the next step may already be in flight.

mod block_copies;
mod in_flight;
mod input;
mod pipeline;
mod program_cache;
mod submit_budget;

use std::{collections::VecDeque, ops::Range};

use block_copies::BlockCopies;
use in_flight::InFlightStep;
pub(super) use input::StepInput;
use input::{InputOptions, SamplingState, draft_place};
use pipeline::{PhasePipeline, PlanContext};
pub(super) use submit_budget::Moment;
use submit_budget::SubmitBudget;

use super::{
    DecodePass, EngineError, EngineOptions, Profile,
    profile::PassKind,
    scheduler::{LogitRow, RowSampling, StepOutput, StepPlan},
};
use crate::{
    gpu::{Device, GpuError, Plan, Program, Readback, Stage},
    kernels::attn::CHUNK,
    model::{
        ExpertCacheLease, History, KernelSelection, KvCache, Model, Phase, PlannedKernel, Sampling, WorkspaceSize,
        weight_bytes,
    },
};

/// The order in which a step's passes run, and their indices in arrays by phase.
const PHASES: [Phase; 2] = [Phase::Prefill, Phase::Decode];

/// Steps whose tokens are read back at once.
const STEPS_IN_FLIGHT: usize = 2;

/// A step whose masks depend on the tokens of the step before.
#[derive(Debug)]
pub(super) struct UnsampledStep {
    pub(super) plan: StepPlan,
    input: StepInput,
    submitted: Moment,
}

/// A part of a step's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StepPart {
    /// All of them.
    Whole,
    /// What comes before sampling.
    Forward,
    /// The sampling.
    Sampling,
}

impl StepPart {
    /// Returns the steps of a plan that belong to it.
    fn of(self, plan: &Plan) -> Range<usize> {
        let len = plan.steps().len();
        let sampling = plan.steps().iter().position(|step| step.scope().stage == Stage::Sampling).unwrap_or(len);
        match self {
            Self::Whole => 0..len,
            Self::Forward => 0..sampling,
            Self::Sampling => sampling..len,
        }
    }
}

/// The buffers and programs of an engine, and its steps in flight.
#[derive(Debug)]
pub(super) struct Executor {
    model: Model,
    options: EngineOptions,
    kv: KvCache,
    /// By phase, as [`PHASES`].
    pipelines: [PhasePipeline; 2],
    block_copies: BlockCopies,
    sampling: Sampling,
    /// The request whose state of sampling each slot has.
    loaded: Vec<Option<u64>>,
    tokens: Readback,
    /// Keeps the expert cache of an offloaded model from other engines.
    _experts: Option<ExpertCacheLease>,
    budget: SubmitBudget,
    /// Oldest first.
    in_flight: VecDeque<InFlightStep>,
    /// The step after those in flight, if its forward pass is submitted and its sampling is not.
    unsampled: Option<UnsampledStep>,
    pub(super) profile: Profile,
}

/// Returns the sizes of passes, by phase as [`PHASES`].
pub(super) fn workspace_sizes(options: &EngineOptions, context: u32) -> [WorkspaceSize; 2] {
    let (slots, decode) = (options.sequences, options.decode_rows());
    let (fused, int8) = (options.plan.fused, options.plan.int8());
    // A token is a row once at most.
    let rows = options.prefill_rows.min(context.saturating_mul(slots));
    // Those of requests for all logits, and one of every other sequence.
    let logit_rows = options.max_logit_rows.saturating_add(slots.saturating_sub(1)).min(rows);
    let chunks = if context > CHUNK { context.div_ceil(CHUNK) } else { 0 };
    [
        WorkspaceSize { rows, logit_rows, chunks: 0, fused, int8 },
        WorkspaceSize { rows: decode, logit_rows: decode, chunks, fused, int8 },
    ]
}

impl Executor {
    /// Allocates all buffers but those of penalties, which the first request that needs them allocates.
    pub(super) async fn new(model: &Model, options: &EngineOptions) -> Result<Self, EngineError> {
        let (device, config) = (model.device(), model.config());
        let experts = match &model.weights().expert_cache {
            Some(cache) => Some(cache.lease().ok_or(EngineError::ExpertCacheInUse)?),
            None => None,
        };
        let shape = options.cache(config, options.kv_type_on(device.name(), device.caps())?)?;
        let [prefill, decode] = workspace_sizes(options, shape.context);
        let state = config.delta_net.as_ref().map_or(0, |net| 4 * u64::from(net.heads().state()));
        if let Some(most) = device.caps().buffer_limit().checked_div(state)
            && u64::from(shape.states) > most
        {
            return Err(EngineError::States { needed: shape.states, most });
        }
        let slots = options.sequences;
        let logit_rows = prefill.logit_rows.max(decode.logit_rows);
        Ok(Self {
            kv: KvCache::new(device, config, model.weights(), shape).await?,
            pipelines: [
                PhasePipeline::new(model, Phase::Prefill, prefill).await?,
                PhasePipeline::new(model, Phase::Decode, decode).await?,
            ],
            block_copies: BlockCopies::new(device, shape.groups(), slots).await?,
            sampling: Sampling::new(device, logit_rows, options.decode_rows(), config.vocab).await?,
            loaded: vec![None; slots as usize],
            tokens: Readback::new::<u32>(device, options.decode_rows().into(), STEPS_IN_FLIGHT).await?,
            _experts: experts,
            budget: SubmitBudget::default(),
            in_flight: VecDeque::new(),
            unsampled: None,
            profile: Profile::default(),
            model: model.clone(),
            options: EngineOptions {
                // Measurements of another device or model do not apply.
                tuning: Some(&options.tuning).filter(|tuning| tuning.matches(model)).cloned().unwrap_or_default(),
                ..options.clone()
            },
        })
    }

    /// Returns `rows`, or the most that a pass can have.
    pub(super) fn trial_rows(&self, phase: Phase, rows: u32) -> u32 {
        match phase {
            Phase::Prefill => rows.min(self.pipelines[phase as usize].max_rows()),
            Phase::Decode => rows.min(self.options.sequences),
        }
    }

    /// Records the plan of a pass that tuning measures with.
    pub(super) fn trial_plan(&self, phase: Phase, rows: u32, kernels: KernelSelection) -> Result<Plan, GpuError> {
        let pipeline = &self.pipelines[phase as usize];
        pipeline.plan(self.plan_context(), kernels, pipeline.trial(rows))
    }

    /// Writes the input of such a pass.
    pub(super) fn write_trial(&self, phase: Phase, rows: u32) -> Result<(), GpuError> {
        let (device, vocab) = (self.model.device(), self.model.config().vocab);
        let pipeline = &self.pipelines[phase as usize];
        pipeline.write_trial(device, &self.sampling, vocab, &pipeline.trial(rows))
    }

    /// Waits until the device has finished all submitted work.
    pub(super) async fn wait(&self) -> Result<(), GpuError> {
        self.tokens.read(self.model.device(), &self.sampling.tokens, 1).await.map(|_| ())
    }

    fn plan_context(&self) -> PlanContext<'_> {
        PlanContext { model: &self.model, kv: &self.kv, sampling: &self.sampling, options: &self.options }
    }

    pub(super) fn model(&self) -> &Model {
        &self.model
    }

    pub(super) fn device(&self) -> &Device {
        self.model.device()
    }

    pub(super) fn kv(&self) -> &KvCache {
        &self.kv
    }

    /// Returns the number of dispatches of the last decode pass; zero before the first.
    pub(super) fn decode_dispatches(&self) -> usize {
        self.pipelines[1].current().map_or(0, |(_, program)| program.plan().steps().len())
    }

    /// Describes the last decode pass, if its rows choose `experts` different experts in a layer.
    pub(super) fn decode_pass(&self, experts: f64) -> DecodePass {
        let Some((pass, program)) = self.pipelines[1].current() else { return DecodePass::default() };
        let steps = program.plan().steps();
        DecodePass {
            rows: pass.rows,
            dispatches: steps.len(),
            layer_dispatches: steps.iter().filter(|step| step.scope().layer.is_some()).count(),
            weight_bytes: weight_bytes(program.plan(), self.model.weights(), experts),
        }
    }

    /// Returns whether another step may be submitted before the oldest in flight is finished.
    pub(super) fn may_submit(&self) -> bool {
        self.in_flight.len() <= usize::from(self.options.pipelined)
    }

    /// Returns the most prefill rows of the next step, so that it does not hold up decoding for too long.
    pub(super) fn prefill_rows(&self) -> u32 {
        self.budget.prefill_rows(self.options.prefill_rows, self.options.max_submit)
    }

    /// Forgets all steps in flight.
    pub(super) fn clear(&mut self) {
        self.in_flight.clear();
        self.unsampled = None;
        self.loaded.fill(None);
    }

    /// Returns the input for a plan; `sampling_of` says how a row's request samples.
    pub(super) fn input<'s>(
        &self,
        plan: &StepPlan,
        sampling_of: impl Fn(&LogitRow) -> Option<RowSampling<'s>>,
    ) -> StepInput {
        let options = InputOptions {
            host_sampling: self.options.host_sampling,
            slots: self.options.sequences,
            drafts: self.options.lookup,
            vocab: self.model.config().vocab,
            has_states: self.model.config().delta_net.is_some(),
            loaded: &self.loaded,
        };
        StepInput::new(plan, &options, sampling_of)
    }

    /// Prepares the programs of a step. After an error, or when it was dropped, any step may be prepared.
    pub(super) async fn prepare(&mut self, plan: &StepPlan, input: &StepInput) -> Result<(), GpuError> {
        let penalised = input.passes.iter().any(|pass| pass.sampled.penalised);
        if penalised && self.sampling.history.is_empty() {
            let (device, vocab) = (self.model.device(), self.model.config().vocab);
            self.sampling.history = History::for_all(device, self.options.decode_rows(), vocab).await?;
            self.pipelines.iter_mut().for_each(PhasePipeline::invalidate_programs);
        }
        let limit = self.options.max_submit;
        let (model, kv, sampling, options) = (&self.model, &self.kv, &self.sampling, &self.options);
        let context = PlanContext { model, kv, sampling, options };
        for ((phase, pipeline), pass) in PHASES.into_iter().zip(&mut self.pipelines).zip(&input.passes) {
            let rows = pass.len();
            if rows > 0 {
                let parts = match phase {
                    Phase::Prefill => self.budget.prefill_parts(rows, limit),
                    Phase::Decode => self.budget.decode_parts(limit),
                };
                pipeline.prepare(context, pass, parts).await?;
            }
        }
        self.block_copies.prepare(&self.model, &self.kv, &plan.block_copies).await
    }

    /// Writes what the programs of a step read.
    pub(super) fn write(&mut self, plan: &StepPlan, input: &StepInput) -> Result<(), GpuError> {
        let device = self.model.device();
        let max_blocks = u64::from(self.kv.shape.max_blocks());
        for table in &plan.block_tables {
            let start = u64::from(table.slot) * max_blocks + u64::from(table.first);
            device.write_now(&self.kv.tables[table.group], start, &table.blocks)?;
        }
        for (pipeline, pass) in self.pipelines.iter().zip(&input.passes) {
            if pass.len() > 0 {
                pipeline.write(device, pass)?;
            }
        }
        for row in &plan.decode {
            if let (true, Some(token)) = (self.options.host_sampling || row.from_host, row.token) {
                device.write_now(&self.sampling.tokens, row.slot.into(), &[token])?;
            }
            if !row.drafts.is_empty() {
                let first = draft_place(self.options.sequences, self.options.lookup, row.slot, 1);
                device.write_now(&self.sampling.tokens, first.into(), &row.drafts)?;
            }
        }
        let vocab = u64::from(self.model.config().vocab);
        for (slot, id, count) in &input.counts {
            device.write_now(&self.sampling.history.counts, u64::from(*slot) * vocab + u64::from(*id), &[*count])?;
        }
        if !plan.masks_later {
            input.masks.iter().try_for_each(|(slot, mask)| self.write_mask(*slot, mask))?;
        }
        input.loads.iter().try_for_each(|state| self.load(state))
    }

    /// Writes the mask of a slot's next token.
    pub(super) fn write_mask(&self, slot: u32, mask: &[u32]) -> Result<(), GpuError> {
        let words = u64::from(self.model.config().vocab.div_ceil(32));
        self.model.device().write_now(&self.sampling.history.masks, u64::from(slot) * words, mask)
    }

    /// Writes a state of sampling.
    fn load(&mut self, state: &SamplingState) -> Result<(), GpuError> {
        let (device, vocab) = (self.model.device(), self.model.config().vocab);
        let (sampling, sampler, at) = (&self.sampling, &state.sampler, u64::from(state.place));
        let options = sampler.options();
        device.write_now(&sampling.cuts, 2 * at, &options.cuts())?;
        device.write_now(&sampling.draws, at, &[sampler.seed_and_counter()])?;
        device.write_now(&sampling.penalties, at, &[options.penalties(state.masked)])?;
        if options.penalises() {
            let start = at * u64::from(vocab);
            device.write_now(&sampling.history.counts, start, &sampler.counts(vocab))?;
            device.write_now(&sampling.history.bias, start, &sampler.biases(vocab))?;
        }
        if let Some(loaded) = self.loaded.get_mut(state.place as usize) {
            *loaded = Some(state.request);
        }
        Ok(())
    }

    /// Returns the programs of a step in their order: block copies, then a pass of each phase.
    pub(super) fn programs<'a>(&'a self, plan: &StepPlan, input: &'a StepInput) -> impl Iterator<Item = &'a Program> {
        let copies = (!plan.block_copies.is_empty()).then(|| self.block_copies.program());
        let passes = self.pipelines.iter().zip(&input.passes).filter(|(_, pass)| pass.len() > 0);
        copies.into_iter().chain(passes.filter_map(|(pipeline, _)| Some(pipeline.current()?.1)))
    }

    /// Submits a part of the programs of a step. Waits only for steps of a plan that run on the host, and for profiles.
    pub(super) async fn submit(&mut self, plan: &StepPlan, input: &StepInput, part: StepPart) -> Result<(), GpuError> {
        let device = self.model.device();
        if part != StepPart::Sampling && !plan.block_copies.is_empty() {
            self.block_copies.program().submit(device)?;
        }
        for ((phase, pipeline), pass) in PHASES.into_iter().zip(&self.pipelines).zip(&input.passes) {
            let rows = pass.len();
            let Some((_, program)) = pipeline.current().filter(|_| rows > 0) else { continue };
            if self.options.profile {
                let stages = program.profile(device).await?;
                self.profile.add(PassKind::of(phase, rows), rows, &stages);
            } else {
                program.run_steps(device, part.of(program.plan())).await?;
            }
        }
        Ok(())
    }

    /// Keeps a step whose forward pass was submitted. No other step may be prepared before it is sampled.
    pub(super) fn sample_later(&mut self, plan: StepPlan, input: StepInput, submitted: Moment) {
        self.unsampled = Some(UnsampledStep { plan, input, submitted });
    }

    /// Returns whether a step's sampling is not submitted.
    pub(super) fn has_unsampled(&self) -> bool {
        self.unsampled.is_some()
    }

    /// Returns the step whose sampling is not submitted, once all steps before it are finished.
    pub(super) fn take_unsampled(&mut self) -> Option<UnsampledStep> {
        if self.in_flight.is_empty() { self.unsampled.take() } else { None }
    }

    /// Submits the sampling of a step, and starts its readback. Masks were written.
    pub(super) async fn sample(&mut self, step: UnsampledStep) -> Result<(), GpuError> {
        let UnsampledStep { plan, input, submitted } = step;
        self.submit(&plan, &input, StepPart::Sampling).await?;
        self.start_readback(&plan, input, submitted)
    }

    /// Starts the readback of a submitted step's results.
    pub(super) fn start_readback(
        &mut self,
        plan: &StepPlan,
        mut input: StepInput,
        submitted: Moment,
    ) -> Result<(), GpuError> {
        let device = self.model.device();
        let tokens = self.tokens.start(device, &self.sampling.tokens, self.options.decode_rows().into())?;
        let [vocab, width] = [self.model.config().vocab, self.model.config().hidden].map(u64::from);
        let (read_back, hidden) = (std::mem::take(&mut input.read_back), std::mem::take(&mut input.hidden));
        let mut step = InFlightStep::new(plan.id, &input, submitted, tokens);
        for (((pipeline, pass), rows), hidden) in self.pipelines.iter().zip(&input.passes).zip(read_back).zip(hidden) {
            if let Some((_, last)) = rows.last() {
                // Rows only to read back are the last ones: they are read with those before them.
                let len = (*last as u64 + 1) * vocab;
                let pending = pipeline.logits.start(device, &pipeline.activations.logits, len)?;
                step.read_rows(rows, vocab as usize, pending);
            }
            if let (Some(reader), false) = (&pipeline.hidden, hidden.is_empty()) {
                // They come behind those of the rows of logits.
                let first = pass.logit_rows.len();
                let len = (first + hidden.len()) as u64 * width;
                let pending = reader.start(device, &pipeline.activations.normed, len)?;
                step.read_rows(hidden.into_iter().zip(first..).collect(), width as usize, pending);
            }
        }
        self.in_flight.push_back(step);
        Ok(())
    }

    /// Waits for the oldest step in flight; returns `None` when there is none. May be dropped and called again.
    pub(super) async fn finish_step(&mut self) -> Result<Option<StepOutput>, GpuError> {
        let Some(step) = self.in_flight.front_mut() else { return Ok(None) };
        step.wait(self.model.device(), &mut self.budget).await?;
        Ok(self.in_flight.pop_front().map(InFlightStep::output))
    }

    /// Compiles the kernels of all passes, on its device or one that it is a dry run of: those of decode and of small prompts
    /// first. Calls `progress` with the kernels compiled so far and their number. Touches no sequence.
    pub(super) async fn precompile(&self, device: &Device, progress: impl FnMut(usize, usize)) -> Result<(), GpuError> {
        Plan::compile_all(&self.all_plans()?, device, progress).await
    }

    /// Compiles the kernels of a first reply to a short prompt, as [`precompile`](Self::precompile) compiles all.
    pub(super) async fn precompile_first(
        &self,
        device: &Device,
        progress: impl FnMut(usize, usize),
    ) -> Result<(), GpuError> {
        Plan::compile_all(&self.first_plans()?, device, progress).await
    }

    /// Returns the kernels of all passes, each once, and the number of those of a first reply to a short prompt, which come
    /// first.
    pub(super) fn planned_kernels(&self) -> Result<(Vec<PlannedKernel>, usize), GpuError> {
        let mut kernels: Vec<PlannedKernel> = Vec::new();
        let mut add = |plans: Vec<Plan>| {
            for step in plans.iter().flat_map(Plan::steps) {
                let planned = PlannedKernel { kernel: step.op().kernel(), variant: step.op().variant() };
                if !kernels.contains(&planned) {
                    kernels.push(planned);
                }
            }
            kernels.len()
        };
        let first = add(self.first_plans()?);
        add(self.all_plans()?);
        Ok((kernels, first))
    }

    /// Records the plans of a first reply to a short prompt.
    fn first_plans(&self) -> Result<Vec<Plan>, GpuError> {
        self.pipelines.iter().map(|pipeline| pipeline.first_plan(self.plan_context())).collect()
    }

    /// Records plans that contain the kernels of all passes: those of a first reply, then those of decode and of small prompts
    /// first.
    fn all_plans(&self) -> Result<Vec<Plan>, GpuError> {
        let mut plans = Vec::new();
        for pipeline in self.pipelines.iter().rev() {
            plans.push(pipeline.all_plans(self.plan_context())?);
        }
        let most = plans.iter().map(Vec::len).max().unwrap_or(0);
        let mut in_turn = self.first_plans()?;
        let mut plans: Vec<_> = plans.into_iter().map(Vec::into_iter).collect();
        for _ in 0..most {
            in_turn.extend(plans.iter_mut().filter_map(Iterator::next));
        }
        in_turn.push(self.block_copies.kernel_plan(&self.model, &self.kv)?);
        Ok(in_turn)
    }
}
