//! The buffers between the kernels of a forward pass.

use super::{Activation, Config, ExpertSlots, FeedForward};
use crate::{
    gpu::{Buffer, Device, GpuError},
    kernels::{attn::partial_words, linear::gemv_batched, moe::sort},
};

/// The largest pass that a workspace has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WorkspaceSize {
    /// Tokens of a pass.
    pub(crate) rows: u32,
    /// Rows of logits.
    pub(crate) logit_rows: u32,
    /// Chunks of the longest context; 0 where contexts are not split.
    pub(crate) chunks: u32,
    /// Whether operations are fused.
    pub(crate) fused: bool,
    /// Whether activations are quantised to int8.
    pub(crate) int8: bool,
}

/// The buffers between the kernels of a forward pass.
#[derive(Debug)]
pub(crate) struct Activations {
    /// Token ids `[rows]`, written by the host.
    pub(crate) ids: Buffer<u32>,
    /// Position and sequence of each row `[rows, 2]`, written by the host.
    pub(crate) positions: Buffer<u32>,
    /// Position and place of each row's token `[rows, 2]`, written by the host where there are draft tokens.
    pub(crate) places: Buffer<u32>,
    /// Row and sequence of each row of logits, then of each row whose hidden state is wanted `[max(rows, logit_rows)]`, written by
    /// the host.
    pub(crate) picks: Buffer<[u32; 2]>,
    /// The residual stream `[rows, hidden]`.
    pub(crate) residual: Buffer<f32>,
    /// The normed residual `[rows, hidden]`.
    pub(crate) normed: Buffer<f32>,
    /// What a block adds to the residual, where it is scaled or normed before `[rows, hidden]`.
    pub(crate) block: Option<Buffer<f32>>,
    /// Query, key and value heads as projected `[rows, q_len + 2·kv_len]`.
    pub(crate) qkv: Buffer<f32>,
    /// Query heads `[rows, q_len]`.
    pub(crate) q: Buffer<f32>,
    /// The heads in steps, where operations are not fused.
    pub(crate) split: Option<Split>,
    /// Partial sums of split-KV attention `[rows, heads, chunks, head_dim + 4]`.
    pub(crate) partials: Buffer<f32>,
    /// Attention's output `[rows, q_len]`.
    pub(crate) attended: Buffer<f32>,
    /// The projection whose sigmoid multiplies attention's output `[rows, q_len]`.
    pub(crate) attention_gate: Option<Buffer<f32>>,
    /// `Some` for models with gated delta nets.
    pub(crate) delta_net: Option<DeltaNetActivations>,
    /// The gate projection, then SwiGLU's output `[rows · used, inner]`.
    pub(crate) gate: Buffer<f32>,
    /// The up projection `[rows · used, inner]`; where operations are not fused perhaps with the gate, `[rows · used, 2·inner]`.
    pub(crate) up: Buffer<f32>,
    /// The input of a product as int8.
    pub(crate) int8: Option<Int8>,
    /// `Some` for mixtures of experts.
    pub(crate) routing: Option<Routing>,
    /// Logits `[logit_rows, vocab]`.
    pub(crate) logits: Buffer<f32>,
}

/// The buffers of gated delta nets.
#[derive(Debug)]
pub(crate) struct DeltaNetActivations {
    /// Each row's run `[rows]`, written by the host.
    pub(crate) rows: Buffer<[u32; 4]>,
    /// The first row of each run `[rows]`, written by the host.
    pub(crate) runs: Buffer<u32>,
    /// Channels, output gates, α and β `[rows, projections]`.
    pub(crate) projected: Buffer<f32>,
    /// Prepared rows `[rows, prepared]`; then the normed output `[rows, values]`.
    pub(crate) prepared: Buffer<f32>,
    /// The delta rule's output `[rows, values]`.
    pub(crate) mixed: Buffer<f32>,
}

/// The intermediate values of the operations that `rope_kv_append` fuses: heads of each token, and tokens of each head.
#[derive(Debug)]
pub(crate) struct Split {
    pub(crate) q: Buffer<f32>,
    pub(crate) k: Buffer<f32>,
    pub(crate) v: Buffer<f32>,
    pub(crate) q_heads: Buffer<f32>,
    pub(crate) k_heads: Buffer<f32>,
    pub(crate) v_heads: Buffer<f32>,
}

/// Activations as int8, in blocks with a scale.
#[derive(Debug)]
pub(crate) struct Int8 {
    pub(crate) codes: Buffer<[u32; 4]>,
    pub(crate) scales: Buffer<f32>,
}

/// The router's choice.
#[derive(Debug)]
pub(crate) struct Routing {
    /// `[rows, experts]`, with a gated shared expert `[rows, experts + 1]`.
    pub(crate) logits: Buffer<f32>,
    /// `[rows, used]`, here and below with a shared expert as a token's last.
    pub(crate) ids: Buffer<u32>,
    /// `[rows, used]`.
    pub(crate) weights: Buffer<f32>,
    /// The experts' outputs `[rows · used, hidden]`.
    pub(crate) outputs: Buffer<f32>,
    /// Assignments by expert.
    pub(crate) sorted: SortedAssignments,
    /// The slots of assignments, with an expert cache.
    pub(crate) slots: Option<ExpertSlots>,
}

/// Assignments sorted by expert.
#[derive(Debug)]
pub(crate) struct SortedAssignments {
    /// `[experts]`.
    pub(crate) counts: Buffer<u32>,
    /// `[experts + 1]`.
    pub(crate) offsets: Buffer<u32>,
    /// `[rows · used]`.
    pub(crate) assignments: Buffer<u32>,
    /// `[max_tiles]` of the lowest tiles.
    pub(crate) tiles: Buffer<[u32; 4]>,
    /// Two indirect grids.
    pub(crate) grids: Buffer<u32>,
}

/// The sizes of [`Activations`] in elements, for planning and for allocation.
struct Sizes {
    rows: u64,
    picks: u64,
    hidden: u64,
    block: u64,
    qkv: u64,
    q: u64,
    kv: u64,
    split: bool,
    attention_gate: u64,
    delta_net: Option<DeltaNetSizes>,
    partials: u64,
    inner: u64,
    up: u64,
    int8: u64,
    routed: Option<RoutedSizes>,
    logits: u64,
}

struct DeltaNetSizes {
    projected: u64,
    prepared: u64,
    mixed: u64,
}

struct RoutedSizes {
    experts: u64,
    logits: u64,
    assignments: u64,
    outputs: u64,
    tiles: u64,
}

impl Sizes {
    fn new(config: &Config, size: WorkspaceSize) -> Self {
        let rows = u64::from(size.rows);
        let (inner, routed) = match config.feed_forward {
            FeedForward::Dense { inner } => (u64::from(inner), None),
            FeedForward::Experts { count, used, inner, shared, .. } => {
                let and_shared = u32::from(shared.is_some());
                let (count, used) = (count + and_shared, used + and_shared);
                let assignments = rows * u64::from(used);
                let routed = RoutedSizes {
                    experts: u64::from(count),
                    logits: rows * u64::from(count),
                    assignments,
                    outputs: assignments * u64::from(config.hidden),
                    tiles: u64::from(sort::max_tiles(size.rows.saturating_mul(used), count, LOWEST_TILE)),
                };
                let shared = shared.map_or(0, |shared| shared.inner);
                ((u64::from(used) * u64::from(inner)).max(shared.into()), Some(routed))
            }
        };
        let inner = rows * inner;
        // The epilogue has the other activations.
        let fused_gate = size.fused && config.activation != Activation::SwiGluOai;
        // The normed residual also has the rows of logits.
        let hidden = rows.max(size.logit_rows.into()) * u64::from(config.hidden);
        let values = config.delta_net.as_ref().map_or(0, |net| rows * u64::from(net.heads().values()));
        Self {
            rows,
            picks: u64::from(size.rows.max(size.logit_rows)),
            hidden,
            block: if config.adds_directly() { 0 } else { rows * u64::from(config.hidden) },
            qkv: rows * u64::from(config.q_len() + 2 * config.kv_len()),
            q: rows * u64::from(config.q_len()),
            kv: rows * u64::from(config.kv_len()),
            split: !size.fused,
            attention_gate: if config.attention_gate { rows * u64::from(config.q_len()) } else { 0 },
            delta_net: config.delta_net.as_ref().map(|net| DeltaNetSizes {
                projected: rows * u64::from(net.projections()),
                prepared: rows * u64::from(net.heads().prepared()),
                mixed: rows * u64::from(net.heads().values()),
            }),
            partials: rows
                * u64::from(config.heads)
                * u64::from(size.chunks)
                * u64::from(partial_words(config.head_dim)),
            inner,
            up: if fused_gate { inner } else { 2 * inner },
            int8: if size.int8 { inner.max(hidden).max(rows * u64::from(config.q_len())).max(values) } else { 0 },
            routed,
            logits: u64::from(size.logit_rows) * u64::from(config.vocab),
        }
    }
}

/// The lowest tiles of assignments, of which there are most.
const LOWEST_TILE: u32 = gemv_batched::TILE_ROWS;

impl Activations {
    /// Returns the purpose and bytes of the buffers that [`Activations::new`] allocates, small ones together.
    pub(crate) fn buffers(config: &Config, size: WorkspaceSize) -> impl Iterator<Item = (&'static str, u64)> {
        let s = Sizes::new(config, size);
        let split = if s.split { [2 * s.q, 4 * s.kv] } else { [0; 2] };
        let routed = s.routed.map(|r| {
            [
                ("the router's logits", r.logits),
                ("the experts' outputs", r.outputs),
                ("the choice of experts", 3 * r.assignments + 2 * r.experts + 1 + 4 * r.tiles + 6),
            ]
        });
        let net = s.delta_net.map(|net| {
            [
                ("the runs of a step", 5 * s.rows),
                ("the delta nets' projections of a step", net.projected),
                ("the delta nets' prepared rows of a step", net.prepared),
                ("the delta nets' output of a step", net.mixed),
            ]
        });
        let words = [
            ("the rows of a step", 5 * s.rows + 2 * s.picks),
            ("the residual", s.hidden),
            ("the normed residual", s.hidden),
            ("the output of a block", s.block),
            ("the projections of a step", s.qkv),
            ("the query heads of a step", s.q),
            ("the split queries of a step", split[0]),
            ("the split keys and values of a step", split[1]),
            ("attention by chunks", s.partials),
            ("the attended values of a step", s.q),
            ("the gates of attention of a step", s.attention_gate),
            ("the gates of a step", s.inner),
            ("the gated values of a step", s.up),
            ("the int8 values of a step", s.int8.div_ceil(4)),
            ("the scales of int8 values of a step", s.int8.div_ceil(32)),
            ("the logits of a step", s.logits),
        ];
        words
            .into_iter()
            .chain(net.into_iter().flatten())
            .chain(routed.into_iter().flatten())
            .map(|(name, words)| (name, 4 * words))
    }

    /// Allocates the buffers for passes of at most `size`, of a model with or without an expert cache.
    pub(crate) async fn new(
        device: &Device,
        config: &Config,
        size: WorkspaceSize,
        expert_cache: bool,
    ) -> Result<Self, GpuError> {
        let s = Sizes::new(config, size);
        Ok(Self {
            ids: device.alloc("token ids", s.rows).await?,
            positions: device.alloc("positions", 2 * s.rows).await?,
            places: device.alloc("places of tokens", 2 * s.rows).await?,
            picks: device.alloc("picked rows", s.picks).await?,
            residual: device.alloc("residual", s.hidden).await?,
            normed: device.alloc("normed residual", s.hidden).await?,
            block: match s.block {
                0 => None,
                elements => Some(device.alloc("block output", elements).await?),
            },
            qkv: device.alloc("qkv", s.qkv).await?,
            q: device.alloc("query heads", s.q).await?,
            split: match s.split {
                true => Some(Split {
                    q: device.alloc("split queries", s.q).await?,
                    k: device.alloc("split keys", s.kv).await?,
                    v: device.alloc("split values", s.kv).await?,
                    q_heads: device.alloc("rotated queries", s.q).await?,
                    k_heads: device.alloc("rotated keys", s.kv).await?,
                    v_heads: device.alloc("transposed values", s.kv).await?,
                }),
                false => None,
            },
            partials: device.alloc("attention of chunks", s.partials).await?,
            attended: device.alloc("attended values", s.q).await?,
            attention_gate: match s.attention_gate {
                0 => None,
                elements => Some(device.alloc("gates of attention", elements).await?),
            },
            delta_net: match s.delta_net {
                Some(net) => Some(DeltaNetActivations {
                    rows: device.alloc("runs of rows", s.rows).await?,
                    runs: device.alloc("runs", s.rows).await?,
                    projected: device.alloc("projections of delta nets", net.projected).await?,
                    prepared: device.alloc("prepared rows", net.prepared).await?,
                    mixed: device.alloc("output of delta nets", net.mixed).await?,
                }),
                None => None,
            },
            gate: device.alloc("ffn gate", s.inner).await?,
            up: device.alloc("ffn up", s.up).await?,
            int8: match s.int8 {
                0 => None,
                values => Some(Int8 {
                    codes: device.alloc("int8 values", values.div_ceil(16)).await?,
                    scales: device.alloc("scales of int8 values", values.div_ceil(32)).await?,
                }),
            },
            routing: match s.routed {
                Some(r) => Some(Routing {
                    logits: device.alloc("router logits", r.logits).await?,
                    ids: device.alloc("expert ids", r.assignments).await?,
                    weights: device.alloc("expert weights", r.assignments).await?,
                    outputs: device.alloc("expert outputs", r.outputs).await?,
                    sorted: SortedAssignments {
                        counts: device.alloc("assignments of each expert", r.experts).await?,
                        offsets: device.alloc("expert offsets", r.experts + 1).await?,
                        assignments: device.alloc("assignments by expert", r.assignments).await?,
                        tiles: device.alloc("expert tiles", r.tiles).await?,
                        grids: device.alloc("expert grids", 6).await?,
                    },
                    slots: if expert_cache { Some(ExpertSlots::new(device, r.assignments).await?) } else { None },
                }),
                None => None,
            },
            logits: device.alloc("logits", s.logits).await?,
        })
    }
}
