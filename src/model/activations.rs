//! The buffers between the kernels of a forward pass.

use super::{Config, FeedForward};
use crate::{
    gpu::{Buffer, Device, GpuError},
    kernels::{linear::gemv_columns::COLUMNS, moe::bucket},
};

/// The buffers between the kernels of a forward pass, for up to `rows` tokens at a time.
#[derive(Debug)]
pub(crate) struct Activations {
    /// Token ids `[rows]`, written by the host.
    pub(crate) ids: Buffer<u32>,
    /// Positions `[rows]`, written by the host.
    pub(crate) positions: Buffer<u32>,
    /// The residual's row of each row of logits, and its sequence `[logit_rows, 2]`, written by the host.
    pub(crate) picks: Buffer<[u32; 2]>,
    /// The residual stream `[rows, hidden]`.
    pub(crate) residual: Buffer<f32>,
    /// What a norm leaves `[rows, hidden]`.
    pub(crate) normed: Buffer<f32>,
    /// Query, key and value heads as projected `[rows, q_len + 2·kv_len]`.
    pub(crate) qkv: Buffer<f32>,
    /// Query heads `[rows, q_len]`.
    pub(crate) q: Buffer<f32>,
    /// What attention leaves `[rows, q_len]`.
    pub(crate) attended: Buffer<f32>,
    /// The gate, then the gated inner values `[rows · slots, inner]`.
    pub(crate) gate: Buffer<f32>,
    /// `[rows · slots, inner]`.
    pub(crate) up: Buffer<f32>,
    /// `Some` for mixtures of experts.
    pub(crate) routing: Option<Routing>,
    /// Logits `[logit_rows, vocab]`.
    pub(crate) logits: Buffer<f32>,
}

/// What a router decides.
#[derive(Debug)]
pub(crate) struct Routing {
    /// `[rows, experts]`.
    pub(crate) logits: Buffer<f32>,
    /// `[rows, used]`.
    pub(crate) ids: Buffer<u32>,
    /// `[rows, used]`.
    pub(crate) weights: Buffer<f32>,
    /// The experts' outputs `[rows · used, hidden]`.
    pub(crate) outputs: Buffer<f32>,
    /// Pairs by expert.
    pub(crate) buckets: Buckets,
}

/// What [`bucket`] makes of the chosen experts.
#[derive(Debug)]
pub(crate) struct Buckets {
    /// `[experts]`.
    pub(crate) counts: Buffer<u32>,
    /// `[experts + 1]`.
    pub(crate) offsets: Buffer<u32>,
    /// `[rows · used]`.
    pub(crate) pairs: Buffer<u32>,
    /// As many as [`bucket::max_tiles`] says.
    pub(crate) tiles: Buffer<[u32; 4]>,
    /// Two indirect grids.
    pub(crate) grids: Buffer<u32>,
}

/// The sizes of [`Activations`] in elements: what is planned and what is made cannot differ.
struct Sizes {
    rows: u64,
    hidden: u64,
    qkv: u64,
    q: u64,
    inner: u64,
    routed: Option<RoutedSizes>,
    logit_rows: u64,
    logits: u64,
}

struct RoutedSizes {
    experts: u64,
    logits: u64,
    pairs: u64,
    outputs: u64,
    tiles: u64,
}

impl Sizes {
    fn new(config: &Config, rows: u32, logit_rows: u32) -> Self {
        let (slots, inner, routed) = match config.feed_forward {
            FeedForward::Dense { inner } => (1, inner, None),
            FeedForward::Experts { count, used, inner, .. } => {
                let pairs = u64::from(rows) * u64::from(used);
                let routed = RoutedSizes {
                    experts: u64::from(count),
                    logits: u64::from(rows) * u64::from(count),
                    pairs,
                    outputs: pairs * u64::from(config.hidden),
                    // Of the smallest tiles: the most there can be.
                    tiles: u64::from(bucket::max_tiles(rows.saturating_mul(used), count, COLUMNS)),
                };
                (used, inner, Some(routed))
            }
        };
        let rows = u64::from(rows);
        Self {
            rows,
            hidden: rows * u64::from(config.hidden),
            qkv: rows * u64::from(config.q_len() + 2 * config.kv_len()),
            q: rows * u64::from(config.q_len()),
            inner: rows * u64::from(slots) * u64::from(inner),
            routed,
            logit_rows: u64::from(logit_rows),
            logits: u64::from(logit_rows) * u64::from(config.vocab),
        }
    }
}

impl Activations {
    /// Bytes that [`Activations::new`] takes.
    pub(crate) fn bytes(config: &Config, rows: u32, logit_rows: u32) -> u64 {
        let s = Sizes::new(config, rows, logit_rows);
        let routed = s.routed.map_or(0, |r| r.logits + 3 * r.pairs + r.outputs + 2 * r.experts + 1 + 4 * r.tiles + 6);
        4 * (2 * s.rows + 2 * s.logit_rows + 2 * s.hidden + s.qkv + 2 * s.q + 2 * s.inner + routed + s.logits)
    }

    pub(crate) async fn new(device: &Device, config: &Config, rows: u32, logit_rows: u32) -> Result<Self, GpuError> {
        let s = Sizes::new(config, rows, logit_rows);
        Ok(Self {
            ids: device.alloc("token ids", s.rows).await?,
            positions: device.alloc("positions", s.rows).await?,
            picks: device.alloc("picked rows", s.logit_rows).await?,
            residual: device.alloc("residual", s.hidden).await?,
            normed: device.alloc("normed residual", s.hidden).await?,
            qkv: device.alloc("qkv", s.qkv).await?,
            q: device.alloc("query heads", s.q).await?,
            attended: device.alloc("attended values", s.q).await?,
            gate: device.alloc("ffn gate", s.inner).await?,
            up: device.alloc("ffn up", s.inner).await?,
            routing: match s.routed {
                Some(r) => Some(Routing {
                    logits: device.alloc("router logits", r.logits).await?,
                    ids: device.alloc("expert ids", r.pairs).await?,
                    weights: device.alloc("expert weights", r.pairs).await?,
                    outputs: device.alloc("expert outputs", r.outputs).await?,
                    buckets: Buckets {
                        counts: device.alloc("pairs of each expert", r.experts).await?,
                        offsets: device.alloc("bucket starts", r.experts + 1).await?,
                        pairs: device.alloc("pairs by expert", r.pairs).await?,
                        tiles: device.alloc("expert tiles", r.tiles).await?,
                        grids: device.alloc("expert grids", 6).await?,
                    },
                }),
                None => None,
            },
            logits: device.alloc("logits", s.logits).await?,
        })
    }
}
