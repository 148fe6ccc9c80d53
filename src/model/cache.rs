//! The KV cache and the states of gated delta nets in device memory.

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
    /// Blocks of the pool, for layers without a pool of their own.
    pub(crate) blocks: u32,
    /// The pool of layers with a sliding window; `None`: these have all positions as the others have.
    pub(crate) windowed: Option<WindowPool>,
    /// Sequences that can run at once: rows of the block table.
    pub(crate) slots: u32,
    /// Slots of states of gated delta nets; 0 for models without them.
    pub(crate) states: u32,
    /// The format of keys and values.
    pub(crate) ty: KvType,
}

/// The pool of layers with a sliding window: they keep the last positions of a sequence only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WindowPool {
    /// Positions that a token sees, its own included.
    pub(crate) size: u32,
    /// Rows by which a sequence can be shortened and still has its window.
    pub(crate) slack: u32,
    /// Blocks.
    pub(crate) blocks: u32,
}

impl CacheShape {
    /// Returns the number of groups of layers: each has a pool and a block table.
    pub(crate) fn groups(&self) -> usize {
        1 + usize::from(self.windowed.is_some())
    }

    /// Returns the group of an attention layer with a window of `window` positions, 0 for all.
    pub(crate) fn group_of(&self, window: u32) -> usize {
        usize::from(self.windowed.is_some() && window > 0)
    }

    /// Returns the blocks of a group's pool.
    pub(crate) fn group_blocks(&self, group: usize) -> u32 {
        self.windowed.filter(|_| group > 0).map_or(self.blocks, |windowed| windowed.blocks)
    }

    /// Returns the number of attention layers of a group.
    pub(crate) fn group_layers(&self, config: &Config, group: usize) -> u32 {
        let attention = (0..config.layers).filter(|layer| config.layer_delta_net(*layer).is_none());
        attention.filter(|layer| self.group_of(config.layer_attention(*layer).window) == group).count() as u32
    }

    /// Returns the blocks that a sequence can have.
    pub(crate) fn max_blocks(&self) -> u32 {
        self.context.div_ceil(self.block)
    }

    /// Returns the words of the pool of an attention layer of a group.
    fn layer_words(&self, config: &Config, group: usize) -> u64 {
        let heads = 2 * u64::from(config.kv_heads) * u64::from(self.block) * u64::from(self.group_blocks(group));
        heads * u64::from(self.ty.head_words(config.head_dim))
    }

    /// Returns the bytes of the largest pool of an attention layer.
    pub(crate) fn layer_bytes(&self, config: &Config) -> u64 {
        let used = (0..self.groups()).filter(|group| self.group_layers(config, *group) > 0);
        4 * used.map(|group| self.layer_words(config, group)).max().unwrap_or(0)
    }

    /// Returns the bytes of the pools of a group's layers.
    pub(crate) fn group_bytes(&self, config: &Config, group: usize) -> u64 {
        4 * u64::from(self.group_layers(config, group)) * self.layer_words(config, group)
    }

    /// Returns the bytes of a RoPE table.
    pub(crate) fn rotation_bytes(&self, config: &Config) -> u64 {
        u64::from(self.context) * u64::from(config.head_dim) * 4
    }

    /// Returns the bytes of keys and values: pools, RoPE tables, block tables.
    pub(crate) fn bytes(&self, config: &Config) -> u64 {
        let rotations = config.rope_tables().len() as u64 * self.rotation_bytes(config);
        let table = u64::from(self.slots) * u64::from(self.max_blocks()) * 4;
        (0..self.groups()).map(|group| self.group_bytes(config, group) + table).sum::<u64>() + rotations
    }

    /// Returns the bytes of all states.
    pub(crate) fn state_bytes(&self, config: &Config) -> u64 {
        u64::from(self.states) * config.state_bytes()
    }
}

/// What a layer keeps of sequences.
#[derive(Debug)]
pub(crate) enum LayerCache {
    /// Keys and values in blocks (PagedAttention), `[blocks, 2, kv_heads, block, head_dim]`, keys first.
    Kv(Buffer<u32>),
    /// The states of a gated delta net.
    State {
        /// The convolution's windows, `[states, 3, channels]`.
        windows: Buffer<f32>,
        /// The delta rule's matrices, `[states, value_heads, head_dim, head_dim]`.
        states: Buffer<f32>,
    },
}

impl LayerCache {
    /// Returns the keys and values.
    pub(crate) fn kv(&self) -> Option<&Buffer<u32>> {
        match self {
            Self::Kv(kv) => Some(kv),
            Self::State { .. } => None,
        }
    }
}

/// What all layers keep of all sequences.
#[derive(Debug)]
pub(crate) struct KvCache {
    pub(crate) layers: Vec<LayerCache>,
    /// The block table of each group of layers, `[slots, max_blocks]`: the blocks of each running sequence.
    pub(crate) tables: Vec<Buffer<u32>>,
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
        let mut layers = Vec::new();
        for i in 0..config.layers {
            layers.push(match config.layer_delta_net(i) {
                None => {
                    let words = shape.layer_words(config, shape.group_of(config.layer_attention(i).window));
                    LayerCache::Kv(device.alloc(&format!("KV cache of blk.{i}"), words).await?)
                }
                Some(net) => {
                    let [window, state] = [net.heads().window(), net.heads().state()]
                        .map(|elements| u64::from(shape.states.max(1)) * u64::from(elements));
                    LayerCache::State {
                        windows: device.alloc(&format!("windows of blk.{i}"), window).await?,
                        states: device.alloc(&format!("states of blk.{i}"), state).await?,
                    }
                }
            });
        }
        let mut rotations = Vec::new();
        for RopeTable { frequencies, magnitude } in &weights.rope_tables {
            let fixed = config.head_dim as usize / 2 - frequencies.len();
            let mut table = Vec::with_capacity(shape.context as usize * config.head_dim as usize / 2);
            for position in 0..shape.context {
                // In f64: a shader's sine and cosine are imprecise, and so is a position times a frequency in f32.
                table.extend(frequencies.iter().map(|frequency| {
                    let (sin, cos) = (f64::from(position) * frequency).sin_cos();
                    [(magnitude * cos) as f32, (magnitude * sin) as f32]
                }));
                table.extend(std::iter::repeat_n([1.0, 0.0], fixed));
            }
            rotations.push(device.upload("rotations", &table).await?);
        }
        let mut tables = Vec::new();
        for _ in 0..shape.groups() {
            let entries = u64::from(shape.slots) * u64::from(shape.max_blocks());
            tables.push(device.alloc("block tables", entries).await?);
        }
        Ok(Self { layers, tables, rotations, shape })
    }
}
