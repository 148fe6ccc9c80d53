//! The KV cache in device memory.

use super::{Config, Weights, weights::RopeTable};
use crate::{
    gpu::{Buffer, Device, GpuError},
    kernels::KvType,
};

/// The shape of a KV cache: how many sequences it serves at once, and how much of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheShape {
    /// Positions of a sequence, at most.
    pub(crate) context: u32,
    /// Positions of a block.
    pub(crate) block: u32,
    /// Blocks of the pool.
    pub(crate) blocks: u32,
    /// Sequences that can run at once: rows of the block table.
    pub(crate) slots: u32,
    /// The format of the elements.
    pub(crate) ty: KvType,
}

impl CacheShape {
    /// Returns the blocks that a sequence can have.
    pub(crate) fn max_blocks(&self) -> u32 {
        self.context.div_ceil(self.block)
    }

    /// Returns the words of a layer's pool.
    fn layer_words(&self, config: &Config) -> u64 {
        let heads = 2 * u64::from(config.kv_heads) * u64::from(self.block) * u64::from(self.blocks);
        heads * u64::from(self.ty.head_words(config.head_dim))
    }

    /// Returns the bytes of a layer's pool.
    pub(crate) fn layer_bytes(&self, config: &Config) -> u64 {
        4 * self.layer_words(config)
    }

    /// Returns the bytes of a RoPE table.
    pub(crate) fn rotation_bytes(&self, config: &Config) -> u64 {
        u64::from(self.context) * u64::from(config.head_dim) * 4
    }

    /// Returns the bytes of the whole cache: pools, RoPE tables, block table.
    pub(crate) fn bytes(&self, config: &Config) -> u64 {
        let rotations = config.rope_tables().len() as u64 * self.rotation_bytes(config);
        let table = u64::from(self.slots) * u64::from(self.max_blocks()) * 4;
        u64::from(config.layers) * self.layer_bytes(config) + rotations + table
    }
}

/// The keys and values of all sequences, in blocks (PagedAttention).
#[derive(Debug)]
pub(crate) struct KvCache {
    /// The pool of each layer, `[blocks, 2, kv_heads, block, head_dim]`, keys first.
    pub(crate) layers: Vec<Buffer<u32>>,
    /// The block table, `[slots, max_blocks]`: the blocks of each running sequence.
    pub(crate) table: Buffer<u32>,
    /// The RoPE tables of [`Config::rope_tables`]: cosine and sine of every position's angles, `[context, head_dim / 2]`.
    pub(crate) rotations: Vec<Buffer<[f32; 2]>>,
    pub(crate) shape: CacheShape,
}

impl KvCache {
    /// Allocates an empty cache.
    pub(crate) async fn new(
        device: &Device,
        config: &Config,
        weights: &Weights,
        shape: CacheShape,
    ) -> Result<Self, GpuError> {
        let words = shape.layer_words(config);
        let mut layers = Vec::new();
        for i in 0..config.layers {
            layers.push(device.alloc(&format!("KV cache of blk.{i}"), words).await?);
        }
        let mut rotations = Vec::new();
        for RopeTable { frequencies, magnitude } in &weights.rope_tables {
            let mut table = Vec::with_capacity(shape.context as usize * frequencies.len());
            for position in 0..shape.context {
                // In f64: a shader's sine and cosine are imprecise, and so is a position times a frequency in f32.
                table.extend(frequencies.iter().map(|frequency| {
                    let (sin, cos) = (f64::from(position) * frequency).sin_cos();
                    [(magnitude * cos) as f32, (magnitude * sin) as f32]
                }));
            }
            rotations.push(device.upload("rotations", &table).await?);
        }
        Ok(Self {
            layers,
            table: device.alloc("block tables", u64::from(shape.slots) * u64::from(shape.max_blocks())).await?,
            rotations,
            shape,
        })
    }
}
