//! A forward pass through the decoder, recorded as a plan.

use super::{
    Config, FeedForward,
    weights::{FeedForwardWeights, LayerWeights, Linear, Matrix, MatrixPart, Weights},
};
use crate::{
    gpu::{Buffer, Device, GpuError, Recorder},
    kernels::{
        KvType, Reduce,
        attn::{Cache, attention, qkv_to_cache},
        elementwise::{add_bias, rms_norm, silu_mul},
        linear::{Rows, embed, gemm, gemv},
        moe::{router_topk, weighted_sum},
    },
};

/// The buffers between the kernels of a forward pass, for up to `rows` tokens at a time.
#[derive(Debug)]
pub(crate) struct Activations {
    /// Token ids `[rows]`, written by the host.
    pub(crate) ids: Buffer<u32>,
    /// Positions `[rows]`, written by the host.
    pub(crate) positions: Buffer<u32>,
    /// The residual stream `[rows, hidden]`.
    residual: Buffer<f32>,
    /// What a norm leaves `[rows, hidden]`.
    normed: Buffer<f32>,
    /// Query, key and value heads as projected `[rows, q_len + 2·kv_len]`.
    qkv: Buffer<f32>,
    /// Query heads `[rows, q_len]`.
    q: Buffer<f32>,
    /// What attention leaves `[rows, q_len]`.
    attended: Buffer<f32>,
    /// The gate, then the gated inner values `[rows · slots, inner]`.
    gate: Buffer<f32>,
    /// `[rows · slots, inner]`.
    up: Buffer<f32>,
    /// `Some` for mixtures of experts.
    routing: Option<Routing>,
    /// Logits `[logit_rows, vocab]`.
    pub(crate) logits: Buffer<f32>,
}

/// What a router decides.
#[derive(Debug)]
struct Routing {
    /// `[rows, experts]`.
    logits: Buffer<f32>,
    /// `[rows, used]`.
    ids: Buffer<u32>,
    /// `[rows, used]`.
    weights: Buffer<f32>,
    /// The experts' outputs `[rows · used, hidden]`.
    outputs: Buffer<f32>,
}

/// The sizes of [`Activations`] in elements, each with its label: what is planned and what is made cannot differ.
struct Sizes {
    rows: u64,
    hidden: u64,
    qkv: u64,
    q: u64,
    inner: u64,
    routed: Option<(u64, u64, u64)>,
    logits: u64,
}

impl Sizes {
    fn new(config: &Config, rows: u32, logit_rows: u32) -> Self {
        let rows = u64::from(rows);
        let (slots, inner, routed) = match config.feed_forward {
            FeedForward::Dense { inner } => (1, inner, None),
            FeedForward::Experts { count, used, inner, .. } => {
                let (count, used) = (u64::from(count), u64::from(used));
                (used, inner, Some((rows * count, rows * used, rows * used * u64::from(config.hidden))))
            }
        };
        Self {
            rows,
            hidden: rows * u64::from(config.hidden),
            qkv: rows * u64::from(config.q_len() + 2 * config.kv_len()),
            q: rows * u64::from(config.q_len()),
            inner: rows * slots * u64::from(inner),
            routed,
            logits: u64::from(logit_rows) * u64::from(config.vocab),
        }
    }
}

impl Activations {
    /// Bytes that [`Activations::new`] takes.
    pub(crate) fn bytes(config: &Config, rows: u32, logit_rows: u32) -> u64 {
        let s = Sizes::new(config, rows, logit_rows);
        let routed = s.routed.map_or(0, |(logits, pairs, outputs)| logits + 2 * pairs + outputs);
        4 * (2 * s.rows + 2 * s.hidden + s.qkv + 2 * s.q + 2 * s.inner + routed + s.logits)
    }

    pub(crate) async fn new(device: &Device, config: &Config, rows: u32, logit_rows: u32) -> Result<Self, GpuError> {
        let s = Sizes::new(config, rows, logit_rows);
        Ok(Self {
            ids: device.alloc("token ids", s.rows).await?,
            positions: device.alloc("positions", s.rows).await?,
            residual: device.alloc("residual", s.hidden).await?,
            normed: device.alloc("normed residual", s.hidden).await?,
            qkv: device.alloc("qkv", s.qkv).await?,
            q: device.alloc("query heads", s.q).await?,
            attended: device.alloc("attended values", s.q).await?,
            gate: device.alloc("ffn gate", s.inner).await?,
            up: device.alloc("ffn up", s.inner).await?,
            routing: match s.routed {
                Some((logits, pairs, outputs)) => Some(Routing {
                    logits: device.alloc("router logits", logits).await?,
                    ids: device.alloc("expert ids", pairs).await?,
                    weights: device.alloc("expert weights", pairs).await?,
                    outputs: device.alloc("expert outputs", outputs).await?,
                }),
                None => None,
            },
            logits: device.alloc("logits", s.logits).await?,
        })
    }
}

/// Keys and values of one sequence: slot `i` holds position `i`.
#[derive(Debug)]
pub(crate) struct KvCache {
    /// A layer each, `[2, kv_heads, capacity, head_dim]` of `ty`, keys first.
    pub(crate) layers: Vec<Buffer<u32>>,
    /// Cosine and sine of every position's angles, `[capacity, head_dim / 2]`.
    pub(crate) rotations: Buffer<[f32; 2]>,
    pub(crate) ty: KvType,
    pub(crate) capacity: u32,
}

/// From this many rows on, a matrix is multiplied by tiles rather than row by row.
const GEMM_ROWS: u32 = 8;

/// Records forward passes of one model over one sequence.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    pub(crate) config: &'a Config,
    pub(crate) weights: &'a Weights,
    pub(crate) activations: &'a Activations,
    pub(crate) kv: &'a KvCache,
    /// Tokens of this pass.
    pub(crate) rows: u32,
    /// How kernels take sums.
    pub(crate) reduce: Reduce,
}

impl Decoder<'_> {
    /// The pass, with logits for the last `logit_rows` tokens.
    pub(crate) fn record(&self, logit_rows: u32) -> Result<crate::gpu::Plan, GpuError> {
        let (a, rows) = (self.activations, self.rows);
        let mut rec = Recorder::new();
        rec.scope("embedding");
        let table = &self.weights.embedding;
        for part in &table.parts {
            let planes = &part.planes;
            rec.dispatch(
                embed::Embed,
                planes.ty(),
                embed::Params {
                    rows,
                    n: table.n,
                    first_row: part.first_row,
                    held: planes.rows() as u32,
                    k: table.k,
                    row_units: planes.row_units(),
                    units: planes.units(),
                },
                embed::Binds { w: &part.words, ids: &a.ids, y: &a.residual },
            )?;
        }
        for (i, (layer, kv)) in self.weights.layers.iter().zip(&self.kv.layers).enumerate() {
            rec.scope(format!("blk.{i} attention"));
            self.attention(&mut rec, layer, kv)?;
            rec.scope(format!("blk.{i} ffn"));
            self.feed_forward(&mut rec, layer)?;
        }
        rec.scope("head");
        self.norm(&mut rec, &self.weights.output_norm, rows - logit_rows, logit_rows)?;
        let head = self.weights.output.as_ref().unwrap_or(&self.weights.embedding);
        self.linear(&mut rec, head, None, &a.normed, logit_rows, Output::new(&a.logits, head.n))?;
        Ok(rec.finish())
    }

    fn norm(&self, rec: &mut Recorder, w: &Buffer<f32>, first_row: u32, rows: u32) -> Result<(), GpuError> {
        let a = self.activations;
        rec.dispatch(
            rms_norm::RmsNorm,
            self.reduce,
            rms_norm::Params { rows, n: self.config.hidden, first_row, eps: self.config.eps },
            rms_norm::Binds { x: &a.residual, w, y: &a.normed },
        )
    }

    fn attention(&self, rec: &mut Recorder, layer: &LayerWeights, kv: &Buffer<u32>) -> Result<(), GpuError> {
        let (a, c, rows) = (self.activations, self.config, self.rows);
        self.norm(rec, &layer.attn_norm, 0, rows)?;
        let stride = c.q_len() + 2 * c.kv_len();
        for (linear, offset) in [(&layer.q, 0), (&layer.k, c.q_len()), (&layer.v, c.q_len() + c.kv_len())] {
            self.biased(rec, linear, &a.normed, Output { y: &a.qkv, stride, offset, accumulate: false })?;
        }
        let (heads, kv_heads, head_dim, capacity) = (c.heads, c.kv_heads, c.head_dim, self.kv.capacity);
        rec.dispatch(
            qkv_to_cache::QkvToCache,
            qkv_to_cache::Variant {
                head_dim,
                bias: false,
                norm: layer.qk_norm.is_some(),
                interleaved: c.rope.interleaved,
                cache: Cache::Contiguous,
                kv: self.kv.ty,
                reduce: self.reduce,
            },
            qkv_to_cache::Params { rows, heads, kv_heads, capacity, eps: c.eps, ..Default::default() },
            qkv_to_cache::Binds {
                qkv: &a.qkv,
                bias: None,
                norm: layer.qk_norm.as_ref(),
                rotations: &self.kv.rotations,
                positions: &a.positions,
                table: None,
                q: &a.q,
                kv,
            },
        )?;
        let scale = (1.0 / f64::from(head_dim).sqrt()) as f32;
        rec.dispatch(
            attention::Attention,
            attention::Variant { head_dim, cache: Cache::Contiguous, kv: self.kv.ty, reduce: self.reduce },
            attention::Params { rows, heads, kv_heads, group: heads / kv_heads, capacity, scale, ..Default::default() },
            attention::Binds { q: &a.q, kv, positions: &a.positions, table: None, y: &a.attended },
        )?;
        self.biased(rec, &layer.o, &a.attended, self.residual())
    }

    fn feed_forward(&self, rec: &mut Recorder, layer: &LayerWeights) -> Result<(), GpuError> {
        let (a, rows) = (self.activations, self.rows);
        self.norm(rec, &layer.ffn_norm, 0, rows)?;
        match (&layer.feed_forward, &a.routing, self.config.feed_forward) {
            (FeedForwardWeights::Dense { gate, up, down }, ..) => {
                let inner = gate.matrix.n;
                self.biased(rec, gate, &a.normed, Output::new(&a.gate, inner))?;
                self.biased(rec, up, &a.normed, Output::new(&a.up, inner))?;
                self.gate(rec, rows * inner)?;
                self.biased(rec, down, &a.gate, self.residual())
            }
            (
                FeedForwardWeights::Experts { router, gate, up, down },
                Some(routing),
                FeedForward::Experts { count, used, inner, normalise },
            ) => {
                self.linear(rec, router, None, &a.normed, rows, Output::new(&routing.logits, count))?;
                rec.dispatch(
                    router_topk::RouterTopk,
                    router_topk::Variant { normalise },
                    router_topk::Params { rows, experts: count, k: used },
                    router_topk::Binds { logits: &routing.logits, ids: &routing.ids, weights: &routing.weights },
                )?;
                let (pairs, hidden) = (rows * used, self.config.hidden);
                self.linear(rec, gate, Some((&routing.ids, used)), &a.normed, pairs, Output::new(&a.gate, inner))?;
                self.linear(rec, up, Some((&routing.ids, used)), &a.normed, pairs, Output::new(&a.up, inner))?;
                self.gate(rec, pairs * inner)?;
                let outputs = Output::new(&routing.outputs, hidden);
                self.linear(rec, down, Some((&routing.ids, 1)), &a.gate, pairs, outputs)?;
                rec.dispatch(
                    weighted_sum::WeightedSum,
                    (),
                    weighted_sum::Params { rows, n: hidden, k: used },
                    weighted_sum::Binds { weights: &routing.weights, outputs: &routing.outputs, residual: &a.residual },
                )
            }
            // Activations are made from the same configuration as the weights.
            (FeedForwardWeights::Experts { .. }, ..) => Ok(()),
        }
    }

    fn gate(&self, rec: &mut Recorder, n: u32) -> Result<(), GpuError> {
        let a = self.activations;
        rec.dispatch(silu_mul::SiluMul, (), silu_mul::Params { n }, silu_mul::Binds { gate: &a.gate, up: &a.up })
    }

    fn residual(&self) -> Output<'_> {
        Output { accumulate: true, ..Output::new(&self.activations.residual, self.config.hidden) }
    }

    fn biased(&self, rec: &mut Recorder, linear: &Linear, x: &Buffer<f32>, out: Output<'_>) -> Result<(), GpuError> {
        self.linear(rec, &linear.matrix, None, x, self.rows, out)?;
        let Some(bias) = &linear.bias else { return Ok(()) };
        rec.dispatch(
            add_bias::AddBias,
            (),
            add_bias::Params { rows: self.rows, n: linear.matrix.n, y_stride: out.stride, y_offset: out.offset },
            add_bias::Binds { bias, y: out.y },
        )
    }

    /// `x` times a matrix, or times each row's expert: `experts` are the ids and how many rows share an input.
    fn linear(
        &self,
        rec: &mut Recorder,
        matrix: &Matrix,
        experts: Option<(&Buffer<u32>, u32)>,
        x: &Buffer<f32>,
        rows: u32,
        out: Output<'_>,
    ) -> Result<(), GpuError> {
        let (k, x) = (matrix.k, &x.cast());
        let (y, y_stride, accumulate) = (out.y, out.stride, out.accumulate);
        let dense = experts.is_none();
        for MatrixPart { words: w, planes, first_row } in &matrix.parts {
            let (ty, row_units, units) = (planes.ty(), planes.row_units(), planes.units());
            let part_rows = planes.rows() as u32;
            // A single matrix is split by rows, a stack by experts.
            let (n, y_offset) = if dense { (part_rows, out.offset + first_row) } else { (matrix.n, out.offset) };
            if dense && rows >= GEMM_ROWS {
                rec.dispatch(
                    gemm::Gemm,
                    gemm::Variant { ty, accumulate },
                    gemm::Params { rows, n, k, row_units, units, y_stride, y_offset },
                    gemm::Binds { w, x, y },
                )?;
            } else {
                rec.dispatch(
                    gemv::Gemv,
                    gemv::Variant { ty, rows: if dense { Rows::Dense } else { Rows::Expert }, accumulate },
                    gemv::Params {
                        rows,
                        n,
                        k,
                        row_units,
                        units,
                        y_stride,
                        y_offset,
                        share: experts.map_or(1, |(_, share)| share),
                        experts: matrix.experts,
                        first_expert: if dense { 0 } else { first_row / n },
                        held: part_rows / n,
                    },
                    gemv::Binds { w, x, ids: experts.map(|(ids, _)| ids), y },
                )?;
            }
        }
        Ok(())
    }
}

/// Where a product goes: rows of `stride` elements, from element `offset` on.
#[derive(Clone, Copy, Debug)]
struct Output<'a> {
    y: &'a Buffer<f32>,
    stride: u32,
    offset: u32,
    accumulate: bool,
}

impl<'a> Output<'a> {
    fn new(y: &'a Buffer<f32>, stride: u32) -> Self {
        Self { y, stride, offset: 0, accumulate: false }
    }
}
