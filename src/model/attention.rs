//! The attention block of a layer.

use super::{
    AttentionKind, QueryTemperature,
    activations::Split,
    config::LayerAttention,
    decoder::{Decoder, Phase},
    matmul::{Input, Output},
    tree::QkNormTree,
    weights::{AttentionWeights, LayerWeights, Linear},
};
use crate::{
    gpu::{Buffer, GpuError, Recorder},
    kernels::{
        attn::{
            AttnTile, KvIndex, RopeHead, RopeVariant, Tiles, attention, attention_reduce, attention_split_kv,
            kv_cache_append,
            qk_norm_rope::{self, Mode},
            query_temperature, rope_attention, rope_attention_split_kv, rope_kv_append, split_qkv, transpose_heads,
        },
        elementwise::{add_rows, rms_norm},
        linear::Epilogue,
    },
};

/// What the attention of a layer works on.
#[derive(Clone, Copy, Debug)]
struct LayerOf<'a> {
    weights: &'a AttentionWeights,
    kv: &'a Buffer<u32>,
    own: LayerAttention,
}

impl Decoder<'_> {
    /// Records the attention block, which adds to the residual.
    pub(super) fn attention(
        &self,
        rec: &mut Recorder,
        number: u32,
        layer: &LayerWeights,
        weights: &AttentionWeights,
        kv: &Buffer<u32>,
        input: Input<'_>,
    ) -> Result<(), GpuError> {
        let (a, c) = (self.activations, self.config);
        let kernels = self.pass_kernels();
        self.qkv(rec, weights, input)?;
        if let (Some(linear), Some(gate)) = (&weights.gate, &a.attention_gate) {
            self.biased(rec, linear, input, Output::new(gate, c.q_len()))?;
        }
        if let Some(temperature) = c.query_temperature {
            self.query_temperature(rec, temperature)?;
        }
        let attn_post_norm = layer.attn_post_norm.as_ref();
        let layer = LayerOf { weights, kv, own: c.layer_attention(number) };
        match (&a.split, kernels.attention) {
            // Operations one by one, for comparisons: their attention is a single pass.
            (Some(split), _) => {
                self.qkv_in_steps(rec, layer, split)?;
                self.single_pass(rec, layer)?;
            }
            (None, AttentionKind::Attention) => {
                self.rope_kv_append(rec, layer)?;
                self.single_pass(rec, layer)?;
            }
            (None, AttentionKind::SplitKv) => {
                self.rope_kv_append(rec, layer)?;
                self.attention_split_kv(rec, layer)?;
                self.attention_reduce(rec, layer)?;
            }
            (None, AttentionKind::FusedRope) => self.rope_attention(rec, layer)?,
            (None, AttentionKind::FusedRopeSplitKv) => {
                self.rope_attention_split_kv(rec, layer)?;
                self.attention_reduce(rec, layer)?;
            }
        }
        self.add_block(rec, &weights.o, Input::plain(&a.attended), attn_post_norm)
    }

    /// Records the projections of queries, keys and values.
    fn qkv(&self, rec: &mut Recorder, layer: &AttentionWeights, input: Input<'_>) -> Result<(), GpuError> {
        let (a, c) = (self.activations, self.config);
        let (mut offset, stride) = (0, c.q_len() + 2 * c.kv_len());
        for (i, linear) in layer.qkv.iter().enumerate() {
            let n = linear.matrix.n;
            let norm = match (&layer.qk_norm, i) {
                (QkNormTree::Projection { q, .. }, 0) => Some(q),
                (QkNormTree::Projection { k, .. }, 1) => Some(k),
                _ => None,
            };
            match norm {
                None => self.biased(rec, linear, input, Output { offset, ..Output::new(&a.qkv, stride) })?,
                // The buffer of attention's output is free until then.
                Some(w) => {
                    self.biased(rec, linear, input, Output::new(&a.attended, n))?;
                    let rows = self.pass.rows;
                    rec.dispatch(
                        rms_norm::RmsNorm,
                        rms_norm::Rows::All,
                        rms_norm::Params { rows, n, x_rows: rows, y_stride: stride, y_offset: offset, eps: c.eps },
                        rms_norm::Binds { x: &a.attended, w, picks: None, y: &a.qkv },
                    )?;
                }
            }
            offset += n;
        }
        Ok(())
    }

    /// Records the factor of queries by position.
    fn query_temperature(&self, rec: &mut Recorder, temperature: QueryTemperature) -> Result<(), GpuError> {
        let (a, c) = (self.activations, self.config);
        let QueryTemperature { slope, length } = temperature;
        rec.dispatch(
            query_temperature::QueryTemperature,
            (),
            query_temperature::Params {
                rows: self.pass.rows,
                n: c.q_len(),
                stride: c.q_len() + 2 * c.kv_len(),
                length,
                slope: slope as f32,
            },
            query_temperature::Binds { positions: &a.positions, q: &a.qkv },
        )
    }

    /// Records a product that is added to the residual: as it is, or normed or scaled before.
    pub(super) fn add_block(
        &self,
        rec: &mut Recorder,
        linear: &Linear,
        input: Input<'_>,
        norm: Option<&Buffer<f32>>,
    ) -> Result<(), GpuError> {
        let (a, c, rows) = (self.activations, self.config, self.pass.rows);
        let Some(block) = a.block.as_ref().filter(|_| norm.is_some() || c.scales.residual != 1.0) else {
            return self.biased(rec, linear, input, self.residual());
        };
        self.biased(rec, linear, input, Output::new(block, c.hidden))?;
        let mut x = block;
        if let Some(w) = norm {
            rec.dispatch(
                rms_norm::RmsNorm,
                rms_norm::Rows::All,
                self.norm_params(rows),
                rms_norm::Binds { x, w, picks: None, y: &a.normed },
            )?;
            x = &a.normed;
        }
        rec.dispatch(
            add_rows::AddRows,
            (),
            add_rows::Params {
                rows,
                n: c.hidden,
                x_stride: c.hidden,
                x_offset: 0,
                y_stride: c.hidden,
                y_offset: 0,
                factor: c.scales.residual as f32,
            },
            add_rows::Binds { x, y: &a.residual },
        )
    }

    /// Returns the residual as an output that is added to.
    pub(super) fn residual(&self) -> Output<'_> {
        let (residual, hidden) = (&self.activations.residual, self.config.hidden);
        Output { epilogue: Epilogue::Accumulate, ..Output::new(residual, hidden) }
    }

    /// Returns a layer's block table.
    fn block_table(&self, own: LayerAttention) -> &Buffer<u32> {
        &self.kv.tables[self.kv.shape.group_of(own.window)]
    }

    /// Returns the parameters of a layer's cache.
    fn kv_index(&self, own: LayerAttention) -> KvIndex {
        let shape = &self.kv.shape;
        KvIndex {
            kv_heads: self.config.kv_heads,
            capacity: shape.context,
            sequences: shape.slots,
            max_blocks: shape.max_blocks(),
            block: shape.block,
            blocks: shape.group_blocks(shape.group_of(own.window)),
        }
    }

    fn rotations(&self, layer: LayerOf<'_>) -> &Buffer<[f32; 2]> {
        &self.kv.rotations[layer.own.rope_table]
    }

    fn rope_head(&self) -> RopeHead {
        RopeHead { head_dim: self.config.head_dim, eps: self.config.eps }
    }

    /// Returns the queries of attention from query heads.
    fn tile(&self, own: LayerAttention) -> AttnTile {
        let c = self.config;
        let q_per_kv = c.heads / c.kv_heads;
        let tiles = match self.pass_kernels().attention {
            AttentionKind::SplitKv => {
                self.kernels.split_kv_tiles(q_per_kv, c.kv_heads * self.pass.rows * self.pass.chunks)
            }
            _ => Tiles::new(q_per_kv, self.pass.phase == Phase::Prefill),
        };
        self.layer_tile(own, AttnTile::new(self.pass.rows, c.heads, c.kv_heads, c.head_dim, tiles))
    }

    fn layer_tile(&self, own: LayerAttention, tile: AttnTile) -> AttnTile {
        AttnTile { window: own.window, scale: self.config.scales.attention as f32, ..tile }
    }

    /// Returns the queries of attention from projections.
    fn rope_tile(&self, own: LayerAttention) -> AttnTile {
        let c = self.config;
        self.layer_tile(own, AttnTile::of_kv_heads(self.pass.rows, c.heads, c.kv_heads, c.head_dim))
    }

    fn attention_variant(&self) -> attention::Variant {
        let (head_dim, kv) = (self.config.head_dim, self.kv.shape.ty);
        let gated = self.config.attention_gate;
        attention::Variant { head_dim, kv, reduction: self.kernels.reduction, sinks: false, gated }
    }

    fn rope_variant(&self, layer: LayerOf<'_>) -> RopeVariant {
        RopeVariant {
            attention: self.attention_variant(),
            norm: layer.weights.qk_norm.head().is_some(),
            interleaved: self.config.rope.interleaved,
        }
    }

    fn rope_kv_append(&self, rec: &mut Recorder, layer: LayerOf<'_>) -> Result<(), GpuError> {
        let (a, c) = (self.activations, self.config);
        rec.dispatch(
            rope_kv_append::RopeKvAppend,
            rope_kv_append::Variant {
                norm: layer.weights.qk_norm.head().is_some(),
                interleaved: c.rope.interleaved,
                kv: self.kv.shape.ty,
            },
            rope_kv_append::Params {
                rows: self.pass.rows,
                heads: c.heads,
                index: self.kv_index(layer.own),
                head: self.rope_head(),
            },
            rope_kv_append::Binds {
                qkv: &a.qkv,
                norm: layer.weights.qk_norm.head().map(|norm| &norm.both),
                rotations: self.rotations(layer),
                positions: &a.positions,
                table: self.block_table(layer.own),
                q: &a.q,
                kv: &layer.kv.cast(),
            },
        )
    }

    /// Records a dispatch for each operation that `rope_kv_append` fuses.
    fn qkv_in_steps(&self, rec: &mut Recorder, layer: LayerOf<'_>, split: &Split) -> Result<(), GpuError> {
        let (a, c, rows) = (self.activations, self.config, self.pass.rows);
        rec.dispatch(
            split_qkv::SplitQkv,
            split_qkv::Variant { bias: false },
            split_qkv::Params { rows, q_len: c.q_len(), kv_len: c.kv_len() },
            split_qkv::Binds { qkv: &a.qkv, bias: None, q: &split.q, k: &split.k, v: &split.v },
        )?;
        let (rope, [q_norm, k_norm]) = match layer.weights.qk_norm.head() {
            Some(norm) => (Mode::NormRope, [Some(&norm.both), Some(&norm.key)]),
            None if c.rope.interleaved => (Mode::RopeInterleaved, [None, None]),
            None => (Mode::Rope, [None, None]),
        };
        for (x, norm, mode, heads, y) in [
            (&split.q, q_norm, rope, c.heads, &split.q_heads),
            (&split.k, k_norm, rope, c.kv_heads, &split.k_heads),
            (&split.v, None, Mode::Transpose, c.kv_heads, &split.v_heads),
        ] {
            let rotated = mode != Mode::Transpose;
            let (rotations, positions) = (self.rotations(layer), &a.positions);
            rec.dispatch(
                qk_norm_rope::QkNormRope,
                mode,
                qk_norm_rope::Params { rows, heads, capacity: self.kv.shape.context, head: self.rope_head() },
                qk_norm_rope::Binds {
                    x,
                    norm,
                    rotations: rotated.then_some(rotations),
                    positions: rotated.then_some(positions),
                    y,
                },
            )?;
        }
        rec.dispatch(
            transpose_heads::TransposeHeads,
            (),
            transpose_heads::Params { rows, heads: c.heads, head_dim: c.head_dim },
            transpose_heads::Binds { x: &split.q_heads, y: &a.q },
        )?;
        rec.dispatch(
            kv_cache_append::KvCacheAppend,
            kv_cache_append::Variant { kv: self.kv.shape.ty },
            kv_cache_append::Params { rows, head_dim: c.head_dim, index: self.kv_index(layer.own) },
            kv_cache_append::Binds {
                k: &split.k_heads,
                v: &split.v_heads,
                positions: &a.positions,
                table: self.block_table(layer.own),
                kv: &layer.kv.cast(),
            },
        )
    }

    fn rope_attention(&self, rec: &mut Recorder, layer: LayerOf<'_>) -> Result<(), GpuError> {
        let a = self.activations;
        rec.dispatch(
            rope_attention::RopeAttention,
            self.rope_variant(layer),
            rope_attention::Params {
                tile: self.rope_tile(layer.own),
                index: self.kv_index(layer.own),
                head: self.rope_head(),
            },
            rope_attention::Binds {
                qkv: &a.qkv.cast(),
                norm: layer.weights.qk_norm.head().map(|norm| norm.both.cast()).as_ref(),
                rotations: self.rotations(layer),
                positions: &a.positions,
                table: self.block_table(layer.own),
                gate: a.attention_gate.as_ref().map(Buffer::cast).as_ref(),
                kv: &layer.kv.cast(),
                y: &a.attended.cast(),
            },
        )
    }

    fn rope_attention_split_kv(&self, rec: &mut Recorder, layer: LayerOf<'_>) -> Result<(), GpuError> {
        let (a, chunks) = (self.activations, self.pass.chunks);
        rec.dispatch(
            rope_attention_split_kv::RopeAttentionSplitKv,
            RopeVariant {
                attention: attention::Variant { gated: false, ..self.attention_variant() },
                ..self.rope_variant(layer)
            },
            rope_attention_split_kv::Params {
                tile: self.rope_tile(layer.own),
                index: self.kv_index(layer.own),
                head: self.rope_head(),
                chunks,
            },
            rope_attention_split_kv::Binds {
                qkv: &a.qkv.cast(),
                norm: layer.weights.qk_norm.head().map(|norm| norm.both.cast()).as_ref(),
                rotations: self.rotations(layer),
                positions: &a.positions,
                table: self.block_table(layer.own),
                kv: &layer.kv.cast(),
                partials: &a.partials.cast(),
            },
        )
    }

    fn single_pass(&self, rec: &mut Recorder, layer: LayerOf<'_>) -> Result<(), GpuError> {
        let a = self.activations;
        rec.dispatch(
            attention::Attention,
            attention::Variant { sinks: layer.weights.sinks.is_some(), ..self.attention_variant() },
            attention::Params { tile: self.tile(layer.own), index: self.kv_index(layer.own) },
            attention::Binds {
                q: &a.q.cast(),
                kv: &layer.kv.cast(),
                positions: &a.positions,
                table: self.block_table(layer.own),
                sinks: layer.weights.sinks.as_ref(),
                gate: a.attention_gate.as_ref().map(Buffer::cast).as_ref(),
                y: &a.attended.cast(),
            },
        )
    }

    fn attention_split_kv(&self, rec: &mut Recorder, layer: LayerOf<'_>) -> Result<(), GpuError> {
        let a = self.activations;
        rec.dispatch(
            attention_split_kv::AttentionSplitKv,
            attention::Variant { gated: false, ..self.attention_variant() },
            attention_split_kv::Params {
                tile: self.tile(layer.own),
                index: self.kv_index(layer.own),
                chunks: self.pass.chunks,
            },
            attention_split_kv::Binds {
                q: &a.q.cast(),
                kv: &layer.kv.cast(),
                positions: &a.positions,
                table: self.block_table(layer.own),
                partials: &a.partials.cast(),
            },
        )
    }

    fn attention_reduce(&self, rec: &mut Recorder, layer: LayerOf<'_>) -> Result<(), GpuError> {
        let (a, c, pass) = (self.activations, self.config, self.pass);
        rec.dispatch(
            attention_reduce::AttentionReduce,
            attention_reduce::Variant { sinks: layer.weights.sinks.is_some(), gated: a.attention_gate.is_some() },
            attention_reduce::Params {
                rows: pass.rows,
                heads: c.heads,
                head_dim: c.head_dim,
                chunks: pass.chunks,
                capacity: self.kv.shape.context,
                window: layer.own.window,
            },
            attention_reduce::Binds {
                partials: &a.partials.cast(),
                positions: &a.positions,
                sinks: layer.weights.sinks.as_ref(),
                gate: a.attention_gate.as_ref().map(Buffer::cast).as_ref(),
                y: &a.attended.cast(),
            },
        )
    }
}
