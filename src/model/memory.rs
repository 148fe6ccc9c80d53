//! How much device memory a model takes, before anything is allocated.

use super::{Activations, Config, ModelError, tensors::Tensors};
use crate::{gguf::Gguf, kernels::KvType};

/// Device memory of a model with one session, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// All weights.
    pub weights: u64,
    /// Keys and values, and the table of rotations.
    pub kv: u64,
    /// The buffers between kernels.
    pub activations: u64,
    /// Name and size of the largest piece that cannot be split over several buffers: a row of a matrix, an expert, a
    /// layer's cache. A device must be able to bind it.
    pub largest: (String, u64),
}

impl MemoryPlan {
    /// Plans for `gguf` with a context of `context` tokens, `prefill_rows` of them at a time.
    ///
    /// # Errors
    /// [`ModelError`] when the file is no model that can be run.
    pub fn new(gguf: &Gguf, context: u32, kv_type: KvType, prefill_rows: u32) -> Result<Self, ModelError> {
        let config = Config::from_gguf(gguf)?;
        let tensors = Tensors::find(gguf, &config)?;
        let mut weights = 0;
        let mut largest = (String::new(), 0);
        for matrix in tensors.matrices() {
            weights += matrix.planes.vec4s() * 16;
            let piece = if matrix.experts > 1 { "an expert of" } else { "a row of" };
            let bytes = matrix.planes.file_row_bytes() * u64::from(matrix.step());
            if bytes > largest.1 {
                largest = (format!("{piece} {}", matrix.name()), bytes);
            }
        }
        weights += tensors.vectors().map(|v| v.elements() * 4).sum::<u64>();
        let layer = 4 * kv_layer_words(&config, context, kv_type);
        if layer > largest.1 {
            largest = ("the KV cache of a layer".to_owned(), layer);
        }
        let rotations = u64::from(context) * u64::from(config.head_dim) * 4;
        Ok(Self {
            weights,
            kv: u64::from(config.layers) * layer + rotations,
            activations: Activations::bytes(&config, prefill_rows, 1),
            largest,
        })
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.activations
    }
}

/// Words of a layer's cache `[2, kv_heads, context, head_dim]`.
pub(crate) fn kv_layer_words(config: &Config, context: u32, kv_type: KvType) -> u64 {
    2 * u64::from(config.kv_heads) * u64::from(context) * u64::from(kv_type.head_words(config.head_dim))
}
