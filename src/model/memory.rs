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
    /// layer's cache, a buffer between kernels. A device must be able to bind it.
    pub largest: (String, u64),
    /// The largest buffer on a device that can bind every matrix whole.
    pub largest_whole: u64,
}

impl MemoryPlan {
    /// Plans for `gguf` with a cache, and passes of some sizes.
    ///
    /// # Errors
    /// [`ModelError`] when the file is no model that can be run.
    pub(crate) fn new(gguf: &Gguf, cache: CacheShape, rooms: [Room; 2]) -> Result<Self, ModelError> {
        let config = Config::from_gguf(gguf)?;
        let tensors = Tensors::find(gguf, &config)?;
        let (mut weights, mut matrices) = (0, 0);
        let mut largest = (String::new(), 0);
        let mut piece = |name: &str, bytes: u64| {
            if bytes > largest.1 {
                largest = (name.to_owned(), bytes);
            }
        };
        for matrix in tensors.matrices() {
            let whole = matrix.planes.vec4s() * 16;
            weights += whole;
            matrices = whole.max(matrices);
            let what = if matrix.experts > 1 { "an expert of" } else { "a row of" };
            let bytes = matrix.planes.file_row_bytes() * u64::from(matrix.step());
            piece(&format!("{what} {}", matrix.name()), bytes);
        }
        weights += tensors.vectors().map(|v| v.elements() * 4).sum::<u64>();
        piece("the KV cache of a layer", cache.layer_bytes(&config));
        piece("the table of rotations", cache.rotation_bytes(&config));
        for (name, bytes) in rooms.iter().flat_map(|room| Activations::buffers(&config, *room)) {
            piece(name, bytes);
        }
        let draws = rooms.iter().map(|room| room.logit_rows).max().unwrap_or(0);
        let activations: u64 =
            rooms.iter().flat_map(|room| Activations::buffers(&config, *room)).map(|(_, bytes)| bytes).sum();
        Ok(Self {
            weights,
            kv: cache.bytes(&config),
            activations: activations + Sampling::bytes(draws, cache.slots, config.vocab),
            largest_whole: matrices.max(largest.1),
            largest,
        })
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.activations
    }
}
