//! Attention over a context that is split over workgroups: the merging of its chunks.

use super::{
    CHUNK, Cache, TESTED_HEAD_DIMS,
    attention::{self, Trial},
    attention_part::{self, of_chunk, trials},
    head::rounded,
    part_words,
    scan::Exchange,
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    kernels::KvType,
};

kernel! {
    /// `y[t, h] = Σ_c e_c · sums_c / Σ_c e_c · mass_c` with `e_c = exp(m_c − max m)`, over the chunks in order that row
    /// `t` sees, as [`AttentionPart`](super::attention_part::AttentionPart) wrote them.
    ///
    /// Shapes: `parts` `[rows, heads, chunks, HD + 4]`: the values' sums, the largest score `m`, the mass, two more; `positions`
    /// as [`Cache`] has them (clamped to the capacity and to the chunks), `y` `[rows, heads, HD]` f32. Bound: 2e-5 of
    /// `Σ_c e_c · |sums_c| / Σ_c e_c · mass_c`; the cases have attention's, which also has to do with the scores. Measured worst on lavapipe: 0.005 of it.
    pub struct AttentionMerge("attn/attention_merge") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// Chunks that there is room for.
        chunks: u32,
        /// Positions.
        capacity: u32,
        /// Positions that a token sees, its own included; 0: all.
        window: u32,
    }
    binds {
        /// The chunks' sums.
        parts: read [[f32; 4]],
        /// Each row's position, and its sequence.
        positions: read [u32],
        /// The attended values.
        y: write [[f32; 4]],
    }
}

/// Head size and cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// Elements of a head: a multiple of four, at most [`MAX_HEAD_DIM`](super::MAX_HEAD_DIM).
    pub head_dim: u32,
    /// Whether a sequence is behind each position.
    pub cache: Cache,
}

impl Kernel for AttentionMerge {
    fn supported(_: &Caps) -> Vec<Variant> {
        Cache::ALL.into_iter().flat_map(|cache| TESTED_HEAD_DIMS.map(|head_dim| Variant { head_dim, cache })).collect()
    }

    fn source(v: Variant) -> Source {
        // An invocation for each four elements.
        let workgroup = (v.head_dim / 4).next_power_of_two().clamp(8, 128);
        v.cache
            .positions(Source::new(wgsl!("attn/attention_merge.wgsl"), workgroup))
            .with(wgsl!("attn/window.wgsl"))
            .with(wgsl!("attn/sums.wgsl"))
            .constant("HEAD_DIM", v.head_dim)
            .constant("CHUNK", CHUNK)
            .constant("PART", part_words(v.head_dim) / 4)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.heads, y: p.rows }
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let heads = (p.rows * p.heads) as usize;
        for (i, y) in host.y.as_flattened_mut().chunks_exact_mut(v.head_dim as usize).take(heads).enumerate() {
            merge(&seen(v, p, host.parts.as_flattened(), host.positions, i), y);
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut y = Expect::unchanged(before.y.as_flattened());
        let heads = (p.rows * p.heads) as usize;
        for (i, y) in y.chunks_exact_mut(v.head_dim as usize).take(heads).enumerate() {
            y.copy_from_slice(&merged(&seen(v, p, before.parts.as_flattened(), before.positions, i), y.len()));
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        // The parts of real attention, so that what is expected is attention itself.
        let of =
            attention::Variant { head_dim: v.head_dim, cache: v.cache, kv: KvType::F32, exchange: Exchange::Memory };
        trials(of).into_iter().map(|(trial, chunks)| case(of, trial, chunks)).collect()
    }
}

/// The sums of the chunks that head `i` of the output is made of.
fn seen<'a>(v: Variant, p: &Params, parts: &'a [f32], positions: &[u32], i: usize) -> Vec<&'a [f32]> {
    let context = (v.cache.position(positions, p.capacity, i / p.heads as usize) + 1).min(p.chunks * CHUNK);
    let parts = parts.chunks_exact(part_words(v.head_dim) as usize).skip(i * p.chunks as usize).zip(0..p.chunks);
    parts.filter(|(_, chunk)| !of_chunk(*chunk, context, p.window).is_empty()).map(|(part, _)| part).collect()
}

/// A head `y` from the sums of its chunks.
pub(super) fn merge(parts: &[&[f32]], y: &mut [f32]) {
    y.copy_from_slice(&rounded(&merged(parts, y.len())));
}

/// A head of `hd` elements from the sums of its chunks, exactly, each element with its bound.
fn merged(parts: &[&[f32]], hd: usize) -> Vec<(f64, f64)> {
    let largest = parts.iter().map(|part| f64::from(part[hd])).fold(f64::NEG_INFINITY, f64::max);
    let terms =
        |element: usize| parts.iter().map(move |part| (f64::from(part[hd]) - largest).exp() * f64::from(part[element]));
    let mass: f64 = terms(hd + 1).sum();
    let merged =
        |element| (terms(element).sum::<f64>() / mass, 2e-5 * terms(element).map(f64::abs).sum::<f64>() / mass);
    (0..hd).map(merged).collect()
}

fn case(v: attention::Variant, trial: Trial, chunks: u32) -> Case<AttentionMerge> {
    let (name, positions, expected) = (trial.name, trial.positions.clone(), trial.attended(v, chunks * CHUNK));
    let in_chunks = attention_part::case(v, trial, chunks);
    let attention_part::Params { rows, heads, capacity, window, .. } = in_chunks.params;
    let parts = in_chunks.expected.parts.map(|parts| parts.words()).unwrap_or_default();
    Case {
        name: name.to_owned(),
        params: Params { rows, heads, chunks, capacity, window },
        data: Data {
            parts: bytemuck::cast_slice(&parts).to_vec(),
            positions,
            y: vec![[f32::NAN; 4]; expected.len() / 4],
        },
        expected: Expected { y: Some(Expect::Near(expected)), ..Default::default() },
    }
}
