//! How much device memory a model takes, before anything is allocated.

use super::{Activations, CacheShape, Config, ModelError, Room, Sampling, tensors::Tensors};
use crate::gguf::Gguf;

/// Device memory of a model and an engine for it, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// All weights.
    pub weights: u64,
    /// Keys and values, block tables, and the table of rotations.
    pub kv: u64,
    /// The buffers between kernels.
    pub activations: u64,
    /// Name and size of the largest piece that cannot be split over several buffers: a row of a matrix, an expert, a
    /// layer's cache. A device must be able to bind it.
    pub largest: (String, u64),
}

impl MemoryPlan {
    /// Plans for `gguf` with a cache, and passes of some sizes.
    ///
    /// # Errors
    /// [`ModelError`] when the file is no model that can be run.
    pub(crate) fn new(gguf: &Gguf, cache: CacheShape, rooms: [Room; 2]) -> Result<Self, ModelError> {
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
        let layer = cache.layer_bytes(&config);
        if layer > largest.1 {
            largest = ("the KV cache of a layer".to_owned(), layer);
        }
        let draws = rooms.iter().map(|room| room.logit_rows).max().unwrap_or(0);
        let activations = rooms.iter().map(|room| Activations::bytes(&config, *room)).sum::<u64>();
        Ok(Self {
            weights,
            kv: cache.bytes(&config),
            activations: activations + Sampling::bytes(draws, cache.slots, config.vocab),
            largest,
        })
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.activations
    }
}
