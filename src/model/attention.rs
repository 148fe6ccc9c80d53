//! The attention block of a layer.

use super::{
    AttentionKind,
    activations::Split,
    decoder::{Decoder, Phase},
    matmul::{Input, Output},
    weights::LayerWeights,
};
use crate::{
    gpu::{Buffer, GpuError, Recorder},
    kernels::{
        attn::{
            Cache, QkvVariant, Tiles, attention, attention_merge, attention_part, kv_cache_append,
            qk_norm_rope::{self, Mode},
            qkv_attention, qkv_attention_part, qkv_to_cache, split_qkv, transpose_heads,
        },
        linear::Epilogue,
    },
};

impl Decoder<'_> {
    /// Adds attention of the residual, `normed` already or normed here, to the residual.
    pub(super) fn attention(
        &self,
        rec: &mut Recorder,
        layer: &LayerWeights,
        kv: &Buffer<u32>,
        normed: bool,
    ) -> Result<(), GpuError> {
        let (a, c) = (self.activations, self.config);
        let kernels = self.pass_kernels();
        let input = match normed {
            true => Input::plain(&a.normed),
            false => self.normed(rec, &layer.attn_norm, kernels.attn_norm)?,
        };
        let (mut offset, stride) = (0, c.q_len() + 2 * c.kv_len());
        for linear in &layer.qkv {
            self.biased(rec, linear, input, Output { offset, ..Output::new(&a.qkv, stride) })?;
            offset += linear.matrix.n;
        }
        match (&a.split, kernels.attention) {
            (None, AttentionKind::FusedRopeSplitKv) => self.qkv_attention_part(rec, layer, kv)?,
            (None, AttentionKind::FusedRope) => self.qkv_attention(rec, layer, kv)?,
            (split, kind) => {
                match split {
                    None => self.qkv_to_cache(rec, layer, kv)?,
                    Some(split) => self.qkv_in_steps(rec, layer, kv, split)?,
                }
                if kind.splits_kv() { self.attention_part(rec, kv)? } else { self.whole_attention(rec, kv)? }
            }
        }
        if kernels.attention.splits_kv() {
            self.attention_merge(rec)?;
        }
        self.biased(rec, &layer.o, Input::plain(&a.attended), self.residual())
    }

    pub(super) fn residual(&self) -> Output<'_> {
        let (residual, hidden) = (&self.activations.residual, self.config.hidden);
        Output { epilogue: Epilogue::Accumulate, ..Output::new(residual, hidden) }
    }

    fn qkv_to_cache(&self, rec: &mut Recorder, layer: &LayerWeights, kv: &Buffer<u32>) -> Result<(), GpuError> {
        let (a, c, shape) = (self.activations, self.config, &self.kv.shape);
        rec.dispatch(
            qkv_to_cache::QkvToCache,
            qkv_to_cache::Variant {
                head_dim: c.head_dim,
                bias: false,
                norm: layer.qk_norm.is_some(),
                interleaved: c.rope.interleaved,
                cache: Cache::Paged,
                kv: shape.ty,
            },
            qkv_to_cache::Params {
                rows: self.pass.rows,
                heads: c.heads,
                kv_heads: c.kv_heads,
                capacity: shape.context,
                sequences: shape.slots,
                max_blocks: shape.max_blocks(),
                block: shape.block,
                blocks: shape.blocks,
                eps: c.eps,
            },
            qkv_to_cache::Binds {
                qkv: &a.qkv,
                bias: None,
                norm: layer.qk_norm.as_ref().map(|norm| &norm.both),
                rotations: &self.kv.rotations,
                positions: &a.positions,
                table: Some(&self.kv.table),
                q: &a.q,
                kv: &kv.cast(),
            },
        )
    }

    /// The same by a kernel for each operation.
    fn qkv_in_steps(
        &self,
        rec: &mut Recorder,
        layer: &LayerWeights,
        kv: &Buffer<u32>,
        split: &Split,
    ) -> Result<(), GpuError> {
        let (a, c, shape, rows) = (self.activations, self.config, &self.kv.shape, self.pass.rows);
        rec.dispatch(
            split_qkv::SplitQkv,
            split_qkv::Variant { bias: false },
            split_qkv::Params { rows, q_len: c.q_len(), kv_len: c.kv_len() },
            split_qkv::Binds { qkv: &a.qkv, bias: None, q: &split.q, k: &split.k, v: &split.v },
        )?;
        let [q_norm, k_norm] = match &layer.qk_norm {
            Some(norm) => [Some(&norm.both), Some(&norm.key)],
            None => [None, None],
        };
        let turn = |norm: Option<&Buffer<f32>>| if norm.is_some() { Mode::NormRope } else { Mode::Rope };
        for (x, norm, mode, heads, y) in [
            (&split.q, q_norm, turn(q_norm), c.heads, &split.q_heads),
            (&split.k, k_norm, turn(k_norm), c.kv_heads, &split.k_heads),
            (&split.v, None, Mode::Transpose, c.kv_heads, &split.v_heads),
        ] {
            let turned = mode != Mode::Transpose;
            rec.dispatch(
                qk_norm_rope::QkNormRope,
                qk_norm_rope::Variant {
                    head_dim: c.head_dim,
                    mode,
                    interleaved: turned && c.rope.interleaved,
                    cache: Cache::Paged,
                },
                qk_norm_rope::Params { rows, heads, capacity: shape.context, eps: c.eps },
                qk_norm_rope::Binds {
                    x,
                    norm,
                    rotations: turned.then_some(&self.kv.rotations),
                    positions: turned.then_some(&a.positions),
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
            kv_cache_append::Variant { head_dim: c.head_dim, cache: Cache::Paged, kv: shape.ty },
            kv_cache_append::Params {
                rows,
                kv_heads: c.kv_heads,
                capacity: shape.context,
                sequences: shape.slots,
                max_blocks: shape.max_blocks(),
                block: shape.block,
                blocks: shape.blocks,
            },
            kv_cache_append::Binds {
                k: &split.k_heads,
                v: &split.v_heads,
                positions: &a.positions,
                table: Some(&self.kv.table),
                kv: &kv.cast(),
            },
        )
    }

    fn qkv_variant(&self, layer: &LayerWeights) -> QkvVariant {
        QkvVariant {
            attention: self.scores(),
            norm: layer.qk_norm.is_some(),
            interleaved: self.config.rope.interleaved,
        }
    }

    fn qkv_attention(&self, rec: &mut Recorder, layer: &LayerWeights, kv: &Buffer<u32>) -> Result<(), GpuError> {
        let (a, c, shape) = (self.activations, self.config, &self.kv.shape);
        rec.dispatch(
            qkv_attention::QkvAttention,
            self.qkv_variant(layer),
            qkv_attention::Params {
                rows: self.pass.rows,
                heads: c.heads,
                kv_heads: c.kv_heads,
                group: self.group(),
                tile_rows: 1,
                tile_heads: self.group(),
                head_tiles: 1,
                capacity: shape.context,
                sequences: shape.slots,
                max_blocks: shape.max_blocks(),
                block: shape.block,
                blocks: shape.blocks,
                window: 0,
                eps: c.eps,
                scale: self.scale(),
            },
            qkv_attention::Binds {
                qkv: &a.qkv.cast(),
                norm: layer.qk_norm.as_ref().map(|norm| norm.both.cast()).as_ref(),
                rotations: &self.kv.rotations,
                positions: &a.positions,
                table: Some(&self.kv.table),
                kv: &kv.cast(),
                y: &a.attended.cast(),
            },
        )
    }

    fn qkv_attention_part(&self, rec: &mut Recorder, layer: &LayerWeights, kv: &Buffer<u32>) -> Result<(), GpuError> {
        let (a, c, shape) = (self.activations, self.config, &self.kv.shape);
        rec.dispatch(
            qkv_attention_part::QkvAttentionPart,
            self.qkv_variant(layer),
            qkv_attention_part::Params {
                rows: self.pass.rows,
                heads: c.heads,
                kv_heads: c.kv_heads,
                group: self.group(),
                tile_rows: 1,
                tile_heads: self.group(),
                head_tiles: 1,
                chunks: self.pass.chunks,
                capacity: shape.context,
                sequences: shape.slots,
                max_blocks: shape.max_blocks(),
                block: shape.block,
                blocks: shape.blocks,
                window: 0,
                eps: c.eps,
                scale: self.scale(),
            },
            qkv_attention_part::Binds {
                qkv: &a.qkv.cast(),
                norm: layer.qk_norm.as_ref().map(|norm| norm.both.cast()).as_ref(),
                rotations: &self.kv.rotations,
                positions: &a.positions,
                table: Some(&self.kv.table),
                kv: &kv.cast(),
                parts: &a.parts.cast(),
            },
        )
    }

    fn scores(&self) -> attention::Variant {
        let (head_dim, kv) = (self.config.head_dim, self.kv.shape.ty);
        attention::Variant { head_dim, cache: Cache::Paged, kv, exchange: self.kernels.reduction }
    }

    /// Query heads of a key head.
    fn group(&self) -> u32 {
        self.config.heads / self.config.kv_heads
    }

    fn scale(&self) -> f32 {
        (1.0 / f64::from(self.config.head_dim).sqrt()) as f32
    }

    fn whole_attention(&self, rec: &mut Recorder, kv: &Buffer<u32>) -> Result<(), GpuError> {
        let (a, c, shape) = (self.activations, self.config, &self.kv.shape);
        let tiles = Tiles::new(self.group(), self.pass.phase == Phase::Prefill);
        rec.dispatch(
            attention::Attention,
            self.scores(),
            attention::Params {
                rows: self.pass.rows,
                heads: c.heads,
                kv_heads: c.kv_heads,
                group: self.group(),
                tile_rows: tiles.rows,
                tile_heads: tiles.heads,
                head_tiles: tiles.per_key_head,
                capacity: shape.context,
                sequences: shape.slots,
                max_blocks: shape.max_blocks(),
                block: shape.block,
                blocks: shape.blocks,
                window: 0,
                scale: self.scale(),
            },
            attention::Binds {
                q: &a.q.cast(),
                kv: &kv.cast(),
                positions: &a.positions,
                table: Some(&self.kv.table),
                y: &a.attended.cast(),
            },
        )
    }

    /// The same, bit for bit, by chunks side by side: their sums.
    fn attention_part(&self, rec: &mut Recorder, kv: &Buffer<u32>) -> Result<(), GpuError> {
        let (a, c, shape, pass) = (self.activations, self.config, &self.kv.shape, self.pass);
        let tiles = Tiles::new(self.group(), false);
        rec.dispatch(
            attention_part::AttentionPart,
            self.scores(),
            attention_part::Params {
                rows: pass.rows,
                heads: c.heads,
                kv_heads: c.kv_heads,
                group: self.group(),
                tile_rows: tiles.rows,
                tile_heads: tiles.heads,
                head_tiles: tiles.per_key_head,
                chunks: pass.chunks,
                capacity: shape.context,
                sequences: shape.slots,
                max_blocks: shape.max_blocks(),
                block: shape.block,
                blocks: shape.blocks,
                window: 0,
                scale: self.scale(),
            },
            attention_part::Binds {
                q: &a.q.cast(),
                kv: &kv.cast(),
                positions: &a.positions,
                table: Some(&self.kv.table),
                parts: &a.parts.cast(),
            },
        )
    }

    /// All of attention by the sums of its chunks.
    fn attention_merge(&self, rec: &mut Recorder) -> Result<(), GpuError> {
        let (a, c, shape, pass) = (self.activations, self.config, &self.kv.shape, self.pass);
        rec.dispatch(
            attention_merge::AttentionMerge,
            attention_merge::Variant { head_dim: c.head_dim, cache: Cache::Paged },
            attention_merge::Params {
                rows: pass.rows,
                heads: c.heads,
                chunks: pass.chunks,
                capacity: shape.context,
                window: 0,
            },
            attention_merge::Binds { parts: &a.parts.cast(), positions: &a.positions, y: &a.attended.cast() },
        )
    }
}
