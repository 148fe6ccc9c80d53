//! The second half of split-KV attention: the combination of the chunks' partial sums.

use super::{
    CHUNK, Reduction,
    attention::{self, Trial},
    attention_split_kv::{self, trials},
    kv_index::position_of,
    partial_words,
    reference::{apply_gate, combine, combined, gated, keys_of_chunk},
    tile::{output_fragment, sinks_fragment},
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, Source, kernel, wgsl},
    kernels::KvType,
};

kernel! {
    /// The second half of split-KV attention (Flash-Decoding, Dao et al. 2023):
    /// `y[t, h] = Σ_c e_c · values_c / Σ_c e_c · exp_sum_c` with `e_c = exp(m_c − max m)`, over the chunks that row `t`
    /// sees, in order, and with gates then multiplied by `sigmoid(gate)`, as
    /// [`AttentionSplitKv`](super::attention_split_kv::AttentionSplitKv) wrote them.
    ///
    /// Shapes: `partials` `[rows, heads, chunks, HD + 4]`: the weighted values, the row maximum `m`, the sum of
    /// exponentials, two of padding; `sinks` `[heads]`; `positions` `[rows, 2]` with each row's position and sequence (positions are
    /// clamped to the capacity and to the chunks); `gate` and `y` `[rows, heads, HD]` f32. Bound:
    /// `2e-5 · Σ_c e_c · |values_c| / Σ_c e_c · exp_sum_c`. The cases have attention's bound, which includes the scores'. Measured worst on lavapipe:
    /// 0.005 of it.
    pub struct AttentionReduce("attn/attention_reduce") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Query heads.
        heads: u32,
        /// Elements of a head: a multiple of four.
        head_dim: u32,
        /// Chunks that `partials` has room for.
        chunks: u32,
        /// Positions of a sequence.
        capacity: u32,
        /// Positions that a token sees, its own included (sliding window); 0: all.
        window: u32,
    }
    binds {
        /// The chunks' partial sums.
        partials: read [[f32; 4]],
        /// Each row's position and sequence.
        positions: read [u32],
        /// The logits of sinks.
        sinks: read [f32] if |v| v.sinks,
        /// The gates' projections.
        gate: read [[f32; 4]] if |v| v.gated,
        /// The attended values.
        y: write [[f32; 4]],
    }
}

/// Sinks, gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// A logit of each query head takes part in its softmax and adds no value.
    pub sinks: bool,
    /// The output is multiplied by the sigmoid of a projection.
    pub gated: bool,
}

/// Invocations of a workgroup: one for each four elements of a head of 128.
const WG: u32 = 32;

impl Kernel for AttentionReduce {
    fn supported(_: &Caps) -> Vec<Variant> {
        [(false, false), (true, false), (false, true)].map(|(sinks, gated)| Variant { sinks, gated }).to_vec()
    }

    fn source(v: Variant) -> Source {
        Source::new(wgsl!("attn/attention_reduce.wgsl"), WG)
            .with(wgsl!("kv/position.wgsl"))
            .with(wgsl!("kv/visible.wgsl"))
            .with(wgsl!("attn/softmax.wgsl"))
            .with(sinks_fragment(v.sinks))
            .with(output_fragment(v.gated))
            .constant("CHUNK", CHUNK)
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.heads, y: p.rows }
    }

    fn cpu(_: Variant, p: &Params, host: Host<'_>) {
        let heads = (p.rows * p.heads) as usize;
        for (i, y) in host.y.as_flattened_mut().chunks_exact_mut(p.head_dim as usize).take(heads).enumerate() {
            let sink = host.sinks.get(i % p.heads as usize).copied();
            combine(&seen(p, host.partials.as_flattened(), host.positions, i), sink, y);
            apply_gate(y, host.gate.as_flattened(), i * p.head_dim as usize);
        }
    }

    fn reference(_: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let mut y = Expect::unchanged(before.y.as_flattened());
        let heads = (p.rows * p.heads) as usize;
        for (i, y) in y.chunks_exact_mut(p.head_dim as usize).take(heads).enumerate() {
            let sink = before.sinks.get(i % p.heads as usize).copied();
            let partials = seen(p, before.partials.as_flattened(), before.positions, i);
            y.copy_from_slice(&combined(&partials, sink, y.len()));
            gated(y, before.gate.as_flattened(), i * p.head_dim as usize);
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(of: Variant) -> Vec<Case<Self>> {
        // The partial sums of real attention, so that the expected output is attention itself.
        let of = |head_dim| {
            let (kv, reduction) = (KvType::F32, Reduction::SharedMemory);
            let v = attention::Variant { head_dim, kv, reduction, sinks: of.sinks, gated: of.gated };
            trials(v).into_iter().map(move |(trial, chunks)| case(v, trial, chunks))
        };
        [20, 64, 80, 128, 256].into_iter().flat_map(of).collect()
    }
}

/// Returns the partial sums of the chunks that head `i` of the output is made of.
fn seen<'a>(p: &Params, partials: &'a [f32], positions: &[u32], i: usize) -> Vec<&'a [f32]> {
    let context = (position_of(positions, p.capacity, i / p.heads as usize) + 1).min(p.chunks * CHUNK);
    let partials = partials.chunks_exact(partial_words(p.head_dim) as usize).skip(i * p.chunks as usize);
    let seen = partials.zip(0..p.chunks).filter(|(_, chunk)| !keys_of_chunk(*chunk, context, p.window).is_empty());
    seen.map(|(partial, _)| partial).collect()
}

fn case(v: attention::Variant, trial: Trial, chunks: u32) -> Case<AttentionReduce> {
    let (name, positions, expected) = (trial.name, trial.positions.clone(), trial.attended(v, chunks * CHUNK));
    let (sinks, gate) = (trial.sinks.clone(), trial.gate.clone());
    let split = attention_split_kv::case(v, trial, chunks);
    let attention_split_kv::Params { tile, index, .. } = split.params;
    let partials = split.expected.partials.map(|partials| partials.words()).unwrap_or_default();
    Case {
        name: format!("{name}, heads of {}", v.head_dim),
        params: Params {
            rows: tile.rows,
            heads: tile.heads,
            head_dim: v.head_dim,
            chunks,
            capacity: index.capacity,
            window: tile.window,
        },
        data: Data {
            partials: bytemuck::cast_slice(&partials).to_vec(),
            positions,
            sinks,
            gate,
            y: vec![[f32::NAN; 4]; expected.len() / 4],
        },
        expected: Expected { y: Some(Expect::Near(expected)), ..Default::default() },
    }
}
