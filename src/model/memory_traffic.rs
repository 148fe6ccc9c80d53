//! The bytes that a token needs, and those that a plan reads.

use std::collections::{HashMap, HashSet};

use super::{Config, FeedForward, ModelError, tensor_rows::VectorInfo, tensors::Tensors, weights::Weights};
use crate::{
    gguf::Gguf,
    gpu::{Access, Plan, SparseUnit, Step},
    kernels::KvType,
};

/// The bytes that a decode step must read, as the file has them.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryTraffic {
    /// Weights that every step reads.
    pub dense: u64,
    /// One expert of every layer.
    pub expert: u64,
    /// A token's row of the embedding; zero where the embedding is the head too.
    pub row: u64,
    /// Experts of a layer, and those that a token uses, without and with a shared expert in the same stacks.
    experts: [(u32, u32); 2],
    config: Config,
}

impl MemoryTraffic {
    /// Returns those of the model in `gguf`.
    ///
    /// # Errors
    /// [`ModelError`] for a file that is no supported model.
    pub fn of(gguf: &Gguf) -> Result<Self, ModelError> {
        let config = Config::from_gguf(gguf)?;
        let tensors = Tensors::find(gguf, &config)?;
        let (mut dense, mut expert) = (0, 0);
        for matrix in tensors.matrices() {
            let bytes = matrix.bytes();
            if matrix.experts > 1 {
                expert += bytes / u64::from(matrix.experts);
            } else {
                dense += bytes;
            }
        }
        // RoPE's divisors are read at load time only.
        let divisors = tensors.rope_freqs.as_ref().map_or(0, VectorInfo::bytes);
        dense += tensors.vectors().map(VectorInfo::bytes).sum::<u64>() - divisors;
        let mut row = 0;
        if tensors.tree.output.is_some() {
            row = tensors.tree.embedding.planes.file_row_bytes();
            dense -= row * tensors.tree.embedding.planes.rows();
        }
        let routed = match config.feed_forward {
            FeedForward::Dense { .. } => (0, 0),
            FeedForward::Experts { count, used, .. } => (count, used),
        };
        Ok(Self { dense, expert, row, experts: [routed, tensors.experts(&config)], config })
    }

    /// Returns the expected number of different experts of a layer for `rows` tokens with uniformly random choices:
    /// `count · (1 − (1 − used / count)^rows)`, and one for a shared expert in the same stacks. Zero for dense models.
    pub fn experts(&self, rows: u32) -> f64 {
        let [(count, used), (_, all_used)] = self.experts.map(|(count, used)| (f64::from(count), f64::from(used)));
        if rows == 1 || count == 0.0 {
            return all_used;
        }
        count * (1.0 - (1.0 - used / count).powf(f64::from(rows))) + (all_used - used)
    }

    /// Returns the bytes of weights for `rows` tokens with `experts` different experts in each layer.
    pub fn weights(&self, rows: u32, experts: f64) -> f64 {
        self.dense as f64 + self.expert as f64 * experts + self.row as f64 * f64::from(rows)
    }

    /// Returns the bytes of keys and values of a position, in all layers.
    pub fn position(&self, kv: KvType) -> u64 {
        let c = &self.config;
        8 * u64::from(c.attention_layers()) * u64::from(c.kv_heads) * u64::from(kv.head_words(c.head_dim))
    }
}

/// Returns the bytes of weights that the dispatches of `plan` read, with `experts` different experts in each layer: of each
/// dispatch those that its grid covers, once.
pub(crate) fn weight_bytes(plan: &Plan, weights: &Weights, experts: f64) -> f64 {
    let ids: HashSet<u64> = weights.buffers().into_iter().collect();
    let all = plan.steps().iter().flat_map(|step| reads(step, experts));
    all.filter(|(id, _)| ids.contains(id)).map(|(_, bytes)| bytes).sum()
}

/// Returns the bytes that a dispatch reads, each once, with `experts` different experts. A buffer may have two bindings.
pub(crate) fn bytes_read(step: &Step, experts: f64) -> f64 {
    let reads: HashMap<u64, f64> = reads(step, experts).collect();
    reads.into_values().sum()
}

/// Returns the buffers that a dispatch reads, each with the bytes of it.
fn reads(step: &Step, experts: f64) -> impl Iterator<Item = (u64, f64)> {
    let selection = step.op().sparse_reads();
    step.buffers().zip(step.op().bindings()).filter_map(move |(buffer, binding)| {
        let buffer = buffer.filter(|_| binding.access == Access::Read)?;
        let share = match selection.filter(|s| s.binding == binding.name) {
            None => 1.0,
            Some(s) if s.choice == SparseUnit::Experts => experts.min(s.most.into()) / f64::from(s.of.max(1)),
            Some(s) => f64::from(s.most) / f64::from(s.of.max(1)),
        };
        Some((buffer.raw.id, share * buffer.bytes() as f64))
    })
}
