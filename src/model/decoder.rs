//! A forward pass through the decoder, recorded as a plan.

use super::{
    Config, FeedForward, Tiers,
    activations::{Activations, Routing},
    weights::{FeedForwardWeights, GateUp, LayerWeights, Linear, Matrix, MatrixPart, Weights},
};
use crate::{
    gpu::{Buffer, GpuError, Recorder},
    kernels::{
        KvType, Reduce,
        attn::{Cache, attention, qkv_to_cache},
        elementwise::{add_rows, rms_norm, silu_mul},
        linear::{self, Epilogue, embed, gemm, gemv},
        moe::{bucket, router_topk, weighted_sum},
    },
};

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
    /// Which kernels rows are given to.
    pub(crate) tiers: Tiers,
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
        self.linear(&mut rec, head, Rows::Tokens(logit_rows), &a.normed, Output::new(&a.logits, head.n))?;
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
            self.biased(rec, linear, &a.normed, Output { offset, ..Output::new(&a.qkv, stride) })?;
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
        let block = &layer.feed_forward;
        // Activations are made from the same configuration as the weights: all three are there, or none.
        let (Some(router), Some(routing), FeedForward::Experts { count, used, normalise, .. }) =
            (&block.router, &a.routing, self.config.feed_forward)
        else {
            self.gate_up(rec, block, Rows::Tokens(rows))?;
            return self.biased(rec, &block.down, &a.gate, self.residual());
        };
        self.linear(rec, router, Rows::Tokens(rows), &a.normed, Output::new(&routing.logits, count))?;
        rec.dispatch(
            router_topk::RouterTopk,
            router_topk::Variant { normalise },
            router_topk::Params { rows, experts: count, k: used },
            router_topk::Binds { logits: &routing.logits, ids: &routing.ids, weights: &routing.weights },
        )?;
        let (pairs, hidden) = (rows * used, self.config.hidden);
        let tiles = (pairs >= self.tiers.bucket_pairs.saturating_mul(count)).then(|| bucket::max_tiles(pairs, count));
        if let Some(max_tiles) = tiles {
            let b = &routing.buckets;
            rec.dispatch(
                bucket::Bucket,
                (),
                bucket::Params { pairs, experts: count, max_tiles, first_grid: 0, second_grid: 0 },
                bucket::Binds {
                    ids: &routing.ids,
                    counts: &b.counts,
                    offsets: &b.offsets,
                    sorted: &b.pairs,
                    tiles: &b.tiles,
                    grids: &b.grids,
                },
            )?;
        }
        self.gate_up(rec, block, Rows::Pairs { pairs, share: used, tiles, routing })?;
        let rows_of_pairs = Rows::Pairs { pairs, share: 1, tiles, routing };
        self.linear(rec, &block.down.matrix, rows_of_pairs, &a.gate, Output::new(&routing.outputs, hidden))?;
        rec.dispatch(
            weighted_sum::WeightedSum,
            weighted_sum::Variant::Add,
            weighted_sum::Params { rows, n: hidden, k: used, eps: self.config.eps },
            weighted_sum::Binds {
                weights: &routing.weights,
                outputs: &routing.outputs,
                w: None,
                residual: &a.residual,
                y: None,
            },
        )
    }

    /// The gated inner values, from the normed residual.
    fn gate_up(&self, rec: &mut Recorder, block: &FeedForwardWeights, rows: Rows<'_>) -> Result<(), GpuError> {
        let a = self.activations;
        match &block.gate_up {
            GateUp::Fused(matrix) => {
                let out = Output { epilogue: Epilogue::Gate, ..Output::new(&a.gate, matrix.n / 2) };
                self.linear(rec, matrix, rows, &a.normed, out)
            }
            GateUp::Separate { gate, up } => {
                let inner = gate.matrix.n;
                for (linear, y) in [(gate, &a.gate), (up, &a.up)] {
                    self.linear(rec, &linear.matrix, rows, &a.normed, Output::new(y, inner))?;
                    self.bias(rec, linear, Output::new(y, inner))?;
                }
                rec.dispatch(
                    silu_mul::SiluMul,
                    silu_mul::Layout::Split,
                    silu_mul::Params { rows: 1, n: rows.count() * inner },
                    silu_mul::Binds { x: &a.up, y: &a.gate },
                )
            }
        }
    }

    fn residual(&self) -> Output<'_> {
        let (residual, hidden) = (&self.activations.residual, self.config.hidden);
        Output { epilogue: Epilogue::Accumulate, ..Output::new(residual, hidden) }
    }

    fn biased(&self, rec: &mut Recorder, linear: &Linear, x: &Buffer<f32>, out: Output<'_>) -> Result<(), GpuError> {
        self.linear(rec, &linear.matrix, Rows::Tokens(self.rows), x, out)?;
        self.bias(rec, linear, out)
    }

    fn bias(&self, rec: &mut Recorder, linear: &Linear, out: Output<'_>) -> Result<(), GpuError> {
        let Some(bias) = &linear.bias else { return Ok(()) };
        rec.dispatch(
            add_rows::AddRows,
            (),
            add_rows::Params {
                rows: self.rows,
                n: linear.matrix.n,
                x_stride: 0,
                x_offset: 0,
                y_stride: out.stride,
                y_offset: out.offset,
                factor: 1.0,
            },
            add_rows::Binds { x: bias, y: out.y },
        )
    }

    /// `x` times a matrix, or times each pair's expert.
    fn linear(
        &self,
        rec: &mut Recorder,
        matrix: &Matrix,
        rows: Rows<'_>,
        x: &Buffer<f32>,
        out: Output<'_>,
    ) -> Result<(), GpuError> {
        let (k, x, experts) = (matrix.k, &x.cast(), matrix.experts);
        let Output { y, stride: y_stride, epilogue, .. } = out;
        let (count, share, kind) = match rows {
            Rows::Tokens(count) => (count, 1, linear::Rows::Dense),
            Rows::Pairs { pairs, share, .. } => (pairs, share, linear::Rows::Expert),
        };
        let (tiles, buckets, ids) = match rows {
            Rows::Tokens(count) => ((count >= self.tiers.gemm_rows).then(|| count.div_ceil(gemm::TILE_M)), None, None),
            Rows::Pairs { tiles, routing, .. } => (tiles, Some(&routing.buckets), Some(&routing.ids)),
        };
        for MatrixPart { words: w, planes, first_row } in &matrix.parts {
            let (ty, row_units, units) = (planes.ty(), planes.row_units(), planes.units());
            // A single matrix is split by rows, a stack by experts.
            let (matrix_rows, first_output, first_expert) = match kind {
                linear::Rows::Dense => (planes.rows() as u32, epilogue.outputs(*first_row), 0),
                linear::Rows::Expert => (matrix.n, 0, first_row / matrix.n),
            };
            let (n, y_offset) = (epilogue.outputs(matrix_rows), out.offset + first_output);
            let held = planes.rows() as u32 / matrix_rows;
            match tiles {
                Some(tiles) => rec.dispatch(
                    gemm::Gemm,
                    gemm::Variant { ty, rows: kind, epilogue, tile: linear::TileType::F32 },
                    gemm::Params {
                        rows: count,
                        n,
                        k,
                        row_units,
                        units,
                        y_stride,
                        y_offset,
                        tiles,
                        share,
                        experts,
                        first_expert,
                        held,
                        matrix_rows,
                    },
                    gemm::Binds { w, x, pairs: buckets.map(|b| &b.pairs), tiles: buckets.map(|b| &b.tiles), y },
                )?,
                None => rec.dispatch(
                    gemv::Gemv,
                    gemv::Variant { ty, rows: kind, epilogue },
                    gemv::Params {
                        rows: count,
                        n,
                        k,
                        row_units,
                        units,
                        y_stride,
                        y_offset,
                        share,
                        experts,
                        first_expert,
                        held,
                        matrix_rows,
                        x_offset: 0,
                        ids_offset: 0,
                    },
                    gemv::Binds { w, x, ids, y },
                )?,
            }
        }
        Ok(())
    }
}

/// The rows of a product, and which matrices they meet.
#[derive(Clone, Copy, Debug)]
enum Rows<'a> {
    /// So many tokens, all with the same matrix.
    Tokens(u32),
    /// (token, expert) pairs, each with its expert's matrix.
    Pairs {
        pairs: u32,
        /// Pairs in a row that have the same input row.
        share: u32,
        /// Tiles of the buckets, where it is done by them.
        tiles: Option<u32>,
        routing: &'a Routing,
    },
}

impl Rows<'_> {
    fn count(self) -> u32 {
        match self {
            Self::Tokens(count) | Self::Pairs { pairs: count, .. } => count,
        }
    }
}

/// Where a product goes: rows of `stride` elements, from element `offset` on.
#[derive(Clone, Copy, Debug)]
struct Output<'a> {
    y: &'a Buffer<f32>,
    stride: u32,
    offset: u32,
    epilogue: Epilogue,
}

impl<'a> Output<'a> {
    fn new(y: &'a Buffer<f32>, stride: u32) -> Self {
        Self { y, stride, offset: 0, epilogue: Epilogue::Store }
    }
}
