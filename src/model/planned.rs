//! The kernels that the plans of a model record, without a GPU and without weights.

use std::collections::BTreeSet;

use super::{
    Activations, CacheShape, Decoder, DeviceClass, DeviceProfile, KernelSelection, KvCache, Model, ModelError, Pass,
    Phase, PlanOptions, Sampling, WorkspaceSize,
};
use crate::{
    gguf::Gguf,
    gpu::Device,
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
    let dry_run = Device::dry_run_with(device.caps.clone(), device.class == DeviceClass::Software);
    let model = Model::load(&dry_run, gguf, |_, _| ()).await?;
    let (config, weights) = (model.config(), model.weights());
    let plan = &passes.plan;
    let kernels = plan.kernels.unwrap_or_else(|| KernelSelection::select(device, plan.precision));
    let PlannedPasses { kv_type: ty, context, sequences: slots, .. } = *passes;
    let block = context.min(32);
    let cache = CacheShape { context, block, blocks: context.div_ceil(block), slots, ty };
    let kv = KvCache::new(&dry_run, config, weights, cache).await?;
    let sampling = Sampling::new(&dry_run, slots, slots, config.vocab).await?;
    let mut all = BTreeSet::new();
    for (phase, most, chunks) in
        [(Phase::Prefill, passes.prefill_rows, vec![0]), (Phase::Decode, slots, vec![1, context.div_ceil(CHUNK)])]
    {
        let (fused, int8) = (plan.fused, kernels.int8());
        let size =
            WorkspaceSize { rows: most, logit_rows: slots.min(most), chunks: chunks[chunks.len() - 1], fused, int8 };
        let activations = Activations::new(&dry_run, config, size, false).await?;
        // Kernels change at thresholds only: all small numbers of rows, then powers of two.
        let powers = std::iter::successors(Some(8_u32), |rows| rows.checked_mul(2)).take_while(|rows| *rows < most);
        let thresholds = kernels.thresholds(config);
        let rows: BTreeSet<u32> = (1..8).chain(powers).chain(thresholds).chain([most]).collect();
        for rows in rows.into_iter().filter(|rows| (1..=most).contains(rows)) {
            for chunks in chunks.iter().copied() {
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
                    let logit_rows = rows.min(size.logit_rows);
                    let pass = Pass { phase, rows, chunks, logit_rows, draws };
                    let (activations, kv, sampling, options) = (&activations, &kv, &sampling, *plan);
                    let decoder = Decoder { config, weights, activations, kv, sampling, kernels, options, pass };
                    all.extend(
                        decoder
                            .record()?
                            .steps()
                            .iter()
                            .map(|step| PlannedKernel { kernel: step.op().kernel(), variant: step.op().variant() }),
                    );
                }
            }
        }
    }
    Ok(all)
}
