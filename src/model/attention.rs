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
            AttnTile, KvIndex, RopeHead, RopeVariant, Tiles, attention, attention_reduce, attention_split_kv,
            kv_cache_append,
            qk_norm_rope::{self, Mode},
            rope_attention, rope_attention_split_kv, rope_kv_append, split_qkv, transpose_heads,
        },
        linear::Epilogue,
    },
};

impl Decoder<'_> {
    /// Records the attention block, which adds to the residual. `normed` says that the activations hold the normed
    /// residual already.
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
            // Operations one by one, for comparisons: their attention is a single pass.
            (Some(split), _) => {
                self.qkv_in_steps(rec, layer, kv, split)?;
                self.single_pass(rec, kv)?;
            }
            (None, AttentionKind::Attention) => {
                self.rope_kv_append(rec, layer, kv)?;
                self.single_pass(rec, kv)?;
            }
            (None, AttentionKind::SplitKv) => {
                self.rope_kv_append(rec, layer, kv)?;
                self.attention_split_kv(rec, kv)?;
                self.attention_reduce(rec)?;
            }
            (None, AttentionKind::FusedRope) => self.rope_attention(rec, layer, kv)?,
            (None, AttentionKind::FusedRopeSplitKv) => {
                self.rope_attention_split_kv(rec, layer, kv)?;
                self.attention_reduce(rec)?;
            }
        }
        self.biased(rec, &layer.o, Input::plain(&a.attended), self.residual())
    }

    /// Returns the residual as an output that is added to.
    pub(super) fn residual(&self) -> Output<'_> {
        let (residual, hidden) = (&self.activations.residual, self.config.hidden);
        Output { epilogue: Epilogue::Accumulate, ..Output::new(residual, hidden) }
    }

    /// Returns the cache's parameters.
    fn kv_index(&self) -> KvIndex {
        let shape = &self.kv.shape;
        KvIndex {
            kv_heads: self.config.kv_heads,
            capacity: shape.context,
            sequences: shape.slots,
            max_blocks: shape.max_blocks(),
            block: shape.block,
            blocks: shape.blocks,
        }
    }

    fn rope_head(&self) -> RopeHead {
        RopeHead { head_dim: self.config.head_dim, eps: self.config.eps }
    }

    /// Returns the queries of attention from query heads.
    fn tile(&self) -> AttnTile {
        let c = self.config;
        let tiles = Tiles::new(c.heads / c.kv_heads, self.pass.phase == Phase::Prefill);
        AttnTile::new(self.pass.rows, c.heads, c.kv_heads, c.head_dim, tiles)
    }

    /// Returns the queries of attention from projections.
    fn rope_tile(&self) -> AttnTile {
        let c = self.config;
        AttnTile::of_kv_heads(self.pass.rows, c.heads, c.kv_heads, c.head_dim)
    }

    fn attention_variant(&self) -> attention::Variant {
        let (head_dim, kv) = (self.config.head_dim, self.kv.shape.ty);
        attention::Variant { head_dim, kv, reduction: self.kernels.reduction }
    }

    fn rope_variant(&self, layer: &LayerWeights) -> RopeVariant {
        RopeVariant {
            attention: self.attention_variant(),
            norm: layer.qk_norm.is_some(),
            interleaved: self.config.rope.interleaved,
        }
    }

    fn rope_kv_append(&self, rec: &mut Recorder, layer: &LayerWeights, kv: &Buffer<u32>) -> Result<(), GpuError> {
        let (a, c) = (self.activations, self.config);
        rec.dispatch(
            rope_kv_append::RopeKvAppend,
            rope_kv_append::Variant {
                norm: layer.qk_norm.is_some(),
                interleaved: c.rope.interleaved,
                kv: self.kv.shape.ty,
            },
            rope_kv_append::Params {
                rows: self.pass.rows,
                heads: c.heads,
                index: self.kv_index(),
                head: self.rope_head(),
            },
            rope_kv_append::Binds {
                qkv: &a.qkv,
                norm: layer.qk_norm.as_ref().map(|norm| &norm.both),
                rotations: &self.kv.rotations,
                positions: &a.positions,
                table: &self.kv.table,
                q: &a.q,
                kv: &kv.cast(),
            },
        )
    }

    /// Records a dispatch for each operation that `rope_kv_append` fuses.
    fn qkv_in_steps(
        &self,
        rec: &mut Recorder,
        layer: &LayerWeights,
        kv: &Buffer<u32>,
        split: &Split,
    ) -> Result<(), GpuError> {
        let (a, c, rows) = (self.activations, self.config, self.pass.rows);
        rec.dispatch(
            split_qkv::SplitQkv,
            split_qkv::Variant { bias: false },
            split_qkv::Params { rows, q_len: c.q_len(), kv_len: c.kv_len() },
            split_qkv::Binds { qkv: &a.qkv, bias: None, q: &split.q, k: &split.k, v: &split.v },
        )?;
        let (rope, [q_norm, k_norm]) = match &layer.qk_norm {
            Some(norm) => (Mode::NormRope, [Some(&norm.both), Some(&norm.key)]),
            None => (Mode::RopeInterleaved, [None, None]),
        };
        for (x, norm, mode, heads, y) in [
            (&split.q, q_norm, rope, c.heads, &split.q_heads),
            (&split.k, k_norm, rope, c.kv_heads, &split.k_heads),
            (&split.v, None, Mode::Transpose, c.kv_heads, &split.v_heads),
        ] {
            let rotated = mode != Mode::Transpose;
            let (rotations, positions) = (&self.kv.rotations, &a.positions);
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
            kv_cache_append::Params { rows, head_dim: c.head_dim, index: self.kv_index() },
            kv_cache_append::Binds {
                k: &split.k_heads,
                v: &split.v_heads,
                positions: &a.positions,
                table: &self.kv.table,
                kv: &kv.cast(),
            },
        )
    }

    fn rope_attention(&self, rec: &mut Recorder, layer: &LayerWeights, kv: &Buffer<u32>) -> Result<(), GpuError> {
        let a = self.activations;
        rec.dispatch(
            rope_attention::RopeAttention,
            self.rope_variant(layer),
            rope_attention::Params { tile: self.rope_tile(), index: self.kv_index(), head: self.rope_head() },
            rope_attention::Binds {
                qkv: &a.qkv.cast(),
                norm: layer.qk_norm.as_ref().map(|norm| norm.both.cast()).as_ref(),
                rotations: &self.kv.rotations,
                positions: &a.positions,
                table: &self.kv.table,
                kv: &kv.cast(),
                y: &a.attended.cast(),
            },
        )
    }

    fn rope_attention_split_kv(
        &self,
        rec: &mut Recorder,
        layer: &LayerWeights,
        kv: &Buffer<u32>,
    ) -> Result<(), GpuError> {
        let (a, chunks) = (self.activations, self.pass.chunks);
        rec.dispatch(
            rope_attention_split_kv::RopeAttentionSplitKv,
            self.rope_variant(layer),
            rope_attention_split_kv::Params {
                tile: self.rope_tile(),
                index: self.kv_index(),
                head: self.rope_head(),
                chunks,
            },
            rope_attention_split_kv::Binds {
                qkv: &a.qkv.cast(),
                norm: layer.qk_norm.as_ref().map(|norm| norm.both.cast()).as_ref(),
                rotations: &self.kv.rotations,
                positions: &a.positions,
                table: &self.kv.table,
                kv: &kv.cast(),
                partials: &a.partials.cast(),
            },
        )
    }

    fn single_pass(&self, rec: &mut Recorder, kv: &Buffer<u32>) -> Result<(), GpuError> {
        let a = self.activations;
        rec.dispatch(
            attention::Attention,
            self.attention_variant(),
            attention::Params { tile: self.tile(), index: self.kv_index() },
            attention::Binds {
                q: &a.q.cast(),
                kv: &kv.cast(),
                positions: &a.positions,
                table: &self.kv.table,
                y: &a.attended.cast(),
            },
        )
    }

    fn attention_split_kv(&self, rec: &mut Recorder, kv: &Buffer<u32>) -> Result<(), GpuError> {
        let a = self.activations;
        rec.dispatch(
            attention_split_kv::AttentionSplitKv,
            self.attention_variant(),
            attention_split_kv::Params { tile: self.tile(), index: self.kv_index(), chunks: self.pass.chunks },
            attention_split_kv::Binds {
                q: &a.q.cast(),
                kv: &kv.cast(),
                positions: &a.positions,
                table: &self.kv.table,
                partials: &a.partials.cast(),
            },
        )
    }

    fn attention_reduce(&self, rec: &mut Recorder) -> Result<(), GpuError> {
        let (a, c, pass) = (self.activations, self.config, self.pass);
        rec.dispatch(
            attention_reduce::AttentionReduce,
            (),
            attention_reduce::Params {
                rows: pass.rows,
                heads: c.heads,
                head_dim: c.head_dim,
                chunks: pass.chunks,
                capacity: self.kv.shape.context,
                window: 0,
            },
            attention_reduce::Binds { partials: &a.partials.cast(), positions: &a.positions, y: &a.attended.cast() },
        )
    }
}
