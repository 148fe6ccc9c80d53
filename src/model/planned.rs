//! The kernels that the plans of a model record, without a GPU and without weights.

use std::collections::BTreeSet;

use super::{
    Activations, CacheShape, Config, Decoder, DeviceClass, DeviceProfile, KernelSelection, KvCache, MemoryTraffic,
    Model, ModelError, Pass, Phase, PlanOptions, Sampling, WorkspaceSize, memory_traffic,
};
use crate::{
    gguf::Gguf,
    gpu::{Device, Plan, Step},
    kernels::{KvType, attn::CHUNK, sample},
};

/// A kernel and a variant of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlannedKernel {
    /// [`Declaration::NAME`](crate::gpu::Declaration::NAME).
    pub kernel: &'static str,
    /// The variant's `Debug` form.
    pub variant: String,
}

/// The kernels that an engine needs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlannedKernels {
    /// Each once.
    pub kernels: Vec<PlannedKernel>,
    /// The number of those that a first reply to a short prompt waits for. They come first.
    pub first: usize,
}

/// The passes of [`planned`].
#[derive(Clone, Copy, Debug)]
pub struct PlannedPasses {
    /// The kernels.
    pub plan: PlanOptions,
    /// The format of the KV cache.
    pub kv_type: KvType,
    /// The longest context, in tokens.
    pub context: u32,
    /// The most tokens of a prefill pass.
    pub prefill_rows: u32,
    /// The most sequences of a decode pass.
    pub sequences: u32,
}

impl Default for PlannedPasses {
    fn default() -> Self {
        let plan = PlanOptions::default();
        Self { plan, kv_type: KvType::F16, context: 3 * CHUNK, prefill_rows: 512, sequences: 64 }
    }
}

/// A model on a device that is not there.
struct DryRun {
    device: Device,
    model: Model,
    kernels: KernelSelection,
    options: PlanOptions,
    kv: KvCache,
    sampling: Sampling,
}

impl DryRun {
    /// Returns the model in `gguf` with a KV cache for `sequences` sequences, and `blocks` blocks for all of them.
    async fn new(
        gguf: &Gguf,
        device: &DeviceProfile,
        passes: &PlannedPasses,
        blocks: impl Fn(u32) -> u32,
    ) -> Result<Self, ModelError> {
        let PlannedPasses { plan: options, kv_type: ty, context, sequences: slots, .. } = *passes;
        let kernels = options.kernels.unwrap_or_else(|| KernelSelection::select(device, options.precision));
        let device = Device::dry_run_with(device.caps.clone(), device.class == DeviceClass::Software);
        let model = Model::load(&device, gguf, |_, _| ()).await?;
        let (config, weights) = (model.config(), model.weights());
        let block = context.min(32);
        // No plan depends on their number, and a layer's have one binding.
        let states = model.config().delta_net.as_ref().map_or(0, |_| 2 * slots.min(16));
        let blocks = blocks(context.div_ceil(block));
        // Windows change sizes, not kernels.
        let cache = CacheShape { context, block, blocks, windowed: None, slots, states, ty };
        let kv = KvCache::new(&device, config, weights, cache).await?;
        let sampling = Sampling::new(&device, slots, slots, config.vocab).await?;
        Ok(Self { device, model, kernels, options, kv, sampling })
    }

    fn config(&self) -> &Config {
        self.model.config()
    }

    async fn activations(&self, rows: u32, logit_rows: u32, chunks: u32) -> Result<Activations, ModelError> {
        let (fused, int8) = (self.options.fused, self.kernels.int8());
        let size = WorkspaceSize { rows, logit_rows, chunks, fused, int8 };
        Ok(Activations::new(&self.device, self.config(), size, false).await?)
    }

    fn record(&self, activations: &Activations, pass: Pass) -> Result<Plan, ModelError> {
        let Self { model, kernels, options, kv, sampling, .. } = self;
        let (config, weights, kernels, options) = (model.config(), model.weights(), *kernels, *options);
        Ok(Decoder { config, weights, activations, kv, sampling, kernels, options, pass }.record()?)
    }
}

/// Returns the kernels that forward passes of the model in `gguf` record on `device`, of every number of rows up to the
/// given ones. Only the header of the file and its vectors are read.
///
/// # Errors
/// [`ModelError`] for a file that is no supported model, or buffers that `device` cannot bind.
pub async fn planned(
    gguf: &Gguf,
    device: &DeviceProfile,
    passes: &PlannedPasses,
) -> Result<BTreeSet<PlannedKernel>, ModelError> {
    let dry_run = DryRun::new(gguf, device, passes, |blocks| blocks).await?;
    let (config, slots) = (dry_run.config(), passes.sequences);
    let mut all = BTreeSet::new();
    let long = passes.context.div_ceil(CHUNK);
    for (phase, most, chunks) in [(Phase::Prefill, passes.prefill_rows, [0, 0]), (Phase::Decode, slots, [1, long])] {
        let most_logit_rows = slots.min(most);
        let activations = dry_run.activations(most, most_logit_rows, chunks[1]).await?;
        // Kernels change at thresholds only: all small numbers of rows, then powers of two.
        let powers = std::iter::successors(Some(8_u32), |rows| rows.checked_mul(2)).take_while(|rows| *rows < most);
        let thresholds = dry_run.kernels.thresholds(config);
        let rows: BTreeSet<u32> = (1..8).chain(powers).chain(thresholds).chain([most]).collect();
        for rows in rows.into_iter().filter(|rows| (1..=most).contains(rows)) {
            for chunks in BTreeSet::from(chunks) {
                for penalised in [false, true] {
                    // One token of each sampling path.
                    let draws = sample::Rows {
                        sequences: slots,
                        vocab: config.vocab,
                        greedy: 1,
                        top_k: 1,
                        full_vocab: 1,
                        penalised,
                    };
                    for runs in runs_of(config, phase, rows) {
                        let logit_rows = rows.min(most_logit_rows);
                        let pass = Pass { phase, rows, runs, chunks, logit_rows, hidden_rows: 0, draws, drafts: false };
                        all.extend(kernels_of(&dry_run.record(&activations, pass)?));
                    }
                }
                if phase == Phase::Decode && rows == most {
                    // Rows of one sequence, of draft tokens.
                    let runs = runs_of(config, Phase::Prefill, rows)[0];
                    let draws = sample::Rows { sequences: slots, vocab: config.vocab, greedy: 1, ..Default::default() };
                    let pass = Pass { phase, rows, runs, chunks, logit_rows: 1, hidden_rows: 0, draws, drafts: true };
                    all.extend(kernels_of(&dry_run.record(&activations, pass)?));
                }
            }
        }
    }
    Ok(all)
}

fn kernels_of(plan: &Plan) -> impl Iterator<Item = PlannedKernel> {
    let kernel = |step: &Step| PlannedKernel { kernel: step.op().kernel(), variant: step.op().variant() };
    plan.steps().iter().map(kernel)
}

/// Returns the numbers of runs that a pass of `rows` rows has: those that have kernels of their own.
fn runs_of(config: &Config, phase: Phase, rows: u32) -> Vec<u32> {
    match (&config.delta_net, phase) {
        (None, _) => vec![0],
        (Some(_), Phase::Decode) => vec![rows],
        (Some(_), Phase::Prefill) => BTreeSet::from([1, rows]).into_iter().collect(),
    }
}

/// A dispatch of a planned pass.
#[derive(Debug)]
pub struct PlannedDispatch {
    /// The dispatch.
    pub step: Step,
    /// The bytes that it reads, each once. Experts are expected to be chosen at random.
    pub bytes: f64,
}

/// Returns the dispatches of one pass of the model in `gguf` on `device`: a step of `passes.sequences` sequences, or a prompt
/// of `passes.prefill_rows` tokens. Every context has `passes.context` tokens, and all tokens are sampled greedily.
///
/// # Errors
/// Those of [`planned`].
pub async fn planned_pass(
    gguf: &Gguf,
    device: &DeviceProfile,
    passes: &PlannedPasses,
    phase: Phase,
) -> Result<Vec<PlannedDispatch>, ModelError> {
    let PlannedPasses { context, prefill_rows, sequences, .. } = *passes;
    let (rows, logit_rows, chunks) = match phase {
        Phase::Prefill => (prefill_rows, 1, 0),
        Phase::Decode => (sequences, sequences, context.div_ceil(CHUNK)),
    };
    let dry_run = DryRun::new(gguf, device, passes, |blocks| blocks.saturating_mul(sequences)).await?;
    let activations = dry_run.activations(rows, logit_rows, chunks).await?;
    let draws =
        sample::Rows { sequences, vocab: dry_run.config().vocab, greedy: logit_rows, ..sample::Rows::default() };
    let runs = runs_of(dry_run.config(), phase, rows)[0];
    let plan = dry_run
        .record(&activations, Pass { phase, rows, runs, chunks, logit_rows, hidden_rows: 0, draws, drafts: false })?;
    let experts = MemoryTraffic::of(gguf)?.experts(rows);
    let dispatch = |step| PlannedDispatch { bytes: memory_traffic::bytes_read(&step, experts), step };
    Ok(plan.into_steps().into_iter().map(dispatch).collect())
}
