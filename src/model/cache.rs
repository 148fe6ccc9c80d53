//! Keys and values in device memory.

use super::{Config, Weights};
use crate::{
    gpu::{Buffer, Device, GpuError},
    kernels::KvType,
};

/// How many sequences a cache serves at once, and how much of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheShape {
    /// Positions that a sequence can have.
    pub(crate) context: u32,
    /// Positions of a block.
    pub(crate) block: u32,
    /// Blocks of the pool.
    pub(crate) blocks: u32,
    /// Sequences that can run at once.
    pub(crate) slots: u32,
    /// How elements are stored.
    pub(crate) ty: KvType,
}

impl CacheShape {
    /// Blocks that a sequence can have.
    pub(crate) fn max_blocks(&self) -> u32 {
        self.context.div_ceil(self.block)
    }

    /// Words of a layer's pool.
    fn layer_words(&self, config: &Config) -> u64 {
        let heads = 2 * u64::from(config.kv_heads) * u64::from(self.block) * u64::from(self.blocks);
        heads * u64::from(self.ty.head_words(config.head_dim))
    }

    /// Bytes of a layer's pool.
    pub(crate) fn layer_bytes(&self, config: &Config) -> u64 {
        4 * self.layer_words(config)
    }

    /// Bytes of the table of rotations.
    pub(crate) fn rotation_bytes(&self, config: &Config) -> u64 {
        u64::from(self.context) * u64::from(config.head_dim) * 4
    }

    /// Bytes of all of it.
    pub(crate) fn bytes(&self, config: &Config) -> u64 {
        let table = u64::from(self.slots) * u64::from(self.max_blocks()) * 4;
        u64::from(config.layers) * self.layer_bytes(config) + self.rotation_bytes(config) + table
    }
}

/// Keys and values of all sequences.
#[derive(Debug)]
pub(crate) struct KvCache {
    /// A layer each, `[blocks, 2, kv_heads, block, head_dim]`, keys first.
    pub(crate) layers: Vec<Buffer<u32>>,
    /// The blocks of each running sequence, `[slots, max_blocks]`.
    pub(crate) table: Buffer<u32>,
    /// Cosine and sine of every position's angles, `[context, head_dim / 2]`.
    pub(crate) rotations: Buffer<[f32; 2]>,
    pub(crate) shape: CacheShape,
}

impl KvCache {
    /// A cache of which nothing is used.
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
        let frequencies = &weights.rope_frequencies;
        let mut rotations = Vec::with_capacity(shape.context as usize * frequencies.len());
        for position in 0..shape.context {
            // In f64: shaders' sine and cosine are coarse, and f32 positions times frequencies too.
            rotations.extend(frequencies.iter().map(|frequency| {
                let (sin, cos) = (f64::from(position) * frequency).sin_cos();
                [cos as f32, sin as f32]
            }));
        }
        Ok(Self {
            layers,
            table: device.alloc("block tables", u64::from(shape.slots) * u64::from(shape.max_blocks())).await?,
            rotations: device.upload("rotations", &rotations).await?,
            shape,
        })
    }
}
