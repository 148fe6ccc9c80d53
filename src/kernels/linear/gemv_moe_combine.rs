//! The down projection of a mixture of experts with the MoE combine, fused.

use super::{
    Epilogue, Indexing, RowsPerGroup, Split, TestWeights, TileType,
    matmul::{HostMatmul, Matmul, Run},
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, ReductionOrder, Source, SparseReads, SparseUnit, kernel, times, wgsl},
    quant::{Planes, Rng, WeightType},
};

kernel! {
    /// `y[t, j] += Σ_i weights[t, i] · Σ_d W[ids[t, i], j, d] · x[t, i, d]`, with the experts `i` of a token in order: the
    /// same bits as [`Gemv`](super::gemv::Gemv) of the assignments and then
    /// [`MoeCombine`](crate::kernels::moe::combine::MoeCombine).
    ///
    /// Shapes: `w` is `[experts, n, k]` of any format in [`Planes`], `x` `[rows · top_k, k]` f32, `ids` (clamped) and `weights`
    /// `[rows, top_k]`, `y` `[rows, n]`. Bound: `Σ_i |weight_i|·1e-5·Σ|W·x|` and 1e-6 of the sum of the terms' magnitudes.
    pub struct GemvMoeCombine("linear/gemv_moe_combine") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Outputs of a row.
        n: u32,
        /// Weights of a row of a matrix.
        k: u32,
        /// Blocks of 32 weights of a row of a matrix.
        k_blocks: u32,
        /// Blocks of 32 weights in `w`.
        n_blocks: u32,
        /// Experts of a token.
        top_k: u32,
        /// Experts of the stack.
        experts: u32,
        /// Rows of a matrix: `n`.
        weight_rows: u32,
    }
    binds {
        /// The weights' planes.
        w: read [[u32; 4]],
        /// The inputs.
        x: read [[f32; 4]],
        /// The experts of each token.
        ids: read [u32],
        /// Their weights.
        weights: read [f32],
        /// What the sums are added to.
        y: write [f32],
    }
}

/// Format and split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The weights' format.
    pub ty: WeightType,
    /// What the lanes split. Those of [`Split::K`] have four weight rows a group.
    pub split: Split,
}

impl Kernel for GemvMoeCombine {
    fn supported(caps: &Caps) -> Vec<Variant> {
        let with = |split: &Split| WeightType::ALL.map(|ty| Variant { ty, split: *split });
        Split::available(caps).iter().flat_map(with).collect()
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        v.split.reduction_order()
    }

    fn source(v: Variant) -> Source {
        let (k, rows) = (wgsl!("linear/gemv_moe_combine.wgsl"), wgsl!("software/gemv_moe_combine.wgsl"));
        v.split
            .source(v.ty, k, rows)
            .with(wgsl!("linear/add_output.wgsl"))
            .with(wgsl!("input/plain.wgsl"))
            .constant("ROWS_PER_GROUP", RowsPerGroup::Four.rows())
    }

    fn grid(v: Variant, p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(RowsPerGroup::Four.tile(v.split, v.ty)), y: p.rows }
    }

    fn cost(_: Variant, p: &Params) -> u64 {
        times([p.rows, p.top_k, p.n, p.k])
    }

    fn sparse_reads(_: Variant, p: &Params) -> Option<SparseReads> {
        let most = (p.rows * p.top_k).min(p.experts);
        Some(SparseReads { binding: "w", choice: SparseUnit::Experts, most, of: p.experts })
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        // As the two kernels compute it; the first rounds the products.
        let mut products = vec![0.0; (p.rows * p.top_k * p.n) as usize];
        let (ty, indexing, tile) = (v.ty, Indexing::Expert, TileType::F32);
        let product = HostMatmul { shape: matmul_of(p), ty, indexing, tile, w: host.w, x: host.x, x_offset: 0 };
        product.compute(&runs(p, host.ids), &mut products);
        for (t, y) in host.y.chunks_exact_mut(p.n as usize).enumerate().take(p.rows as usize) {
            for (j, y) in y.iter_mut().enumerate() {
                let assignments = t * p.top_k as usize..(t + 1) * p.top_k as usize;
                let terms = assignments.map(|i| f64::from(host.weights[i]) * f64::from(products[i * p.n as usize + j]));
                *y = terms.fold(f64::from(*y), |sum, term| sum + term) as f32;
            }
        }
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let planes = Planes::new(v.ty, u64::from(p.experts) * u64::from(p.n), u64::from(p.k))?;
        let x: &[f32] = bytemuck::cast_slice(before.x);
        let mut row = vec![0.0; p.k as usize];
        let mut y = Expect::unchanged(before.y);
        for (t, y) in y.chunks_exact_mut(p.n as usize).enumerate().take(p.rows as usize) {
            for (j, y) in y.iter_mut().enumerate() {
                let (mut sum, mut bound, mut size) = (y.0, 0.0, y.0.abs());
                for i in t * p.top_k as usize..(t + 1) * p.top_k as usize {
                    let expert = u64::from(before.ids[i].min(p.experts - 1));
                    planes.decode_row(before.w, expert * u64::from(p.n) + j as u64, &mut row);
                    let (product, near) = super::dot(&row, &x[i * p.k as usize..][..p.k as usize]);
                    let weight = f64::from(before.weights[i]);
                    sum += weight * product;
                    bound += weight.abs() * near;
                    size += (weight * product).abs();
                }
                *y = (sum, bound + 1e-6 * size);
            }
        }
        Some(Expected { y: Some(Expect::Near(y)), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let block = v.ty.block_len() as u64;
        // A number of weight rows that is no multiple of a tile, and more experts per token than are reduced at once; one
        // block; Qwen3-30B-A3B's inner size.
        let shapes = [(3, 40, 9, 2 * block.max(32)), (1, 1, 1, block.max(4)), (2, 33, 8, 768)].into_iter().zip(0..);
        shapes.filter_map(|((rows, n, top_k, k), seed)| case(v, rows, n, top_k, k, seed)).collect()
    }
}

/// Returns the shape of the product of all assignments.
fn matmul_of(p: &Params) -> Matmul {
    Matmul {
        rows: p.rows * p.top_k,
        n: p.n,
        k: p.k,
        k_blocks: p.k_blocks,
        n_blocks: p.n_blocks,
        weight_rows: p.n,
        y_stride: p.n,
        y_offset: 0,
        epilogue: Epilogue::Store.code(),
        rows_per_input: 1,
        experts: p.experts,
        first_expert: 0,
        local_experts: p.experts,
    }
}

/// Returns each assignment with its matrix.
fn runs(p: &Params, ids: &[u32]) -> Vec<Run> {
    let assignments = ids.iter().take((p.rows * p.top_k) as usize).enumerate();
    assignments.map(|(i, id)| ((*id).min(p.experts - 1), vec![i])).collect()
}

fn case(v: Variant, rows: u32, n: u32, top_k: u32, k: u64, seed: u64) -> Option<Case<GemvMoeCombine>> {
    let experts = 5;
    let weights = TestWeights::random(v.ty, u64::from(experts * n), k, seed)?;
    let mut rng = Rng::new(seed + 300);
    let mut random = |count: u64| -> Vec<f32> { (0..count).map(|_| rng.normal()).collect() };
    let assignments = rows * top_k;
    let x = random(u64::from(assignments) * k);
    // An id out of range becomes the last expert.
    let ids = (0..assignments).map(|i| if i == 1 { 99 } else { (i * 3 + 1) % experts }).collect();
    let params = Params {
        rows,
        n,
        k: k as u32,
        k_blocks: weights.planes.k_blocks(),
        n_blocks: weights.planes.blocks(),
        top_k,
        experts,
        weight_rows: n,
    };
    let (factors, y) = (random(u64::from(assignments)), random(u64::from(rows * n) + 1));
    let data = Data { w: weights.words, x: bytemuck::pod_collect_to_vec(&x), ids, weights: factors, y };
    Some(Case::of_reference(format!("{rows}x{top_k}x{n}x{k}"), v, params, data))
}
