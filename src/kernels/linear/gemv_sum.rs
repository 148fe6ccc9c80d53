//! The weighted sum of a token's experts' products: a mixture's way down, in one.

use super::{
    Epilogue, Group, Lanes, Rows, TestWeights,
    product::{self, Product},
};
use crate::{
    gpu::{Caps, Case, Expect, Grid, Kernel, ReductionOrder, Source, SparseReads, SparseUnit, kernel, times, wgsl},
    quant::{Planes, Rng, WeightType},
};

kernel! {
    /// `y[t, j] += Σ_s weights[t, s] · Σ_d W[ids[t, s], j, d] · x[t, s, d]`, slots in order: bit for bit what
    /// [`Gemv`](super::gemv::Gemv) of the pairs and then [`WeightedSum`](crate::kernels::moe::weighted_sum::WeightedSum) give.
    ///
    /// Shapes: `w` is `[experts, n, k]` of any format in [`Planes`], all of it, `x` `[rows · share, k]` f32, `ids` (clamped)
    /// and `weights` `[rows, share]`, `y` `[rows, n]`. Bound: of each product 1e-5 of `Σ |W · x|`, times its weight, and 1e-6
    /// of the sum of the terms' magnitudes.
    pub struct GemvSum("linear/gemv_sum") for Variant;
    params {
        /// Tokens.
        rows: u32,
        /// Outputs of a row, and rows of a matrix.
        n: u32,
        /// Weights of an output.
        k: u32,
        /// Units of weights of an output.
        row_units: u32,
        /// Units of weights in all.
        units: u32,
        /// Experts of a token.
        share: u32,
        /// Experts of the stack.
        experts: u32,
        /// Rows of a matrix: `n`.
        matrix_rows: u32,
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
        /// What is added to.
        y: write [f32],
    }
}

/// Format and lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The weights' format.
    pub ty: WeightType,
    /// What invocations share out.
    pub lanes: Lanes,
    /// Weight rows of eight lanes of units.
    pub group: Group,
}

impl Variant {
    fn product(self) -> product::Variant {
        product::Variant { ty: self.ty, rows: Rows::Expert, epilogue: Epilogue::Accumulate }
    }
}

impl Kernel for GemvSum {
    fn supported(caps: &Caps) -> Vec<Variant> {
        let with = |(lanes, group)| WeightType::ALL.map(|ty| Variant { ty, lanes, group });
        Lanes::grouped(caps).flat_map(with).collect()
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        v.lanes.reduction_order()
    }

    fn source(v: Variant) -> Source {
        let (units, rows) = (wgsl!("linear/gemv_sum.wgsl"), wgsl!("linear/gemv_sum_rows.wgsl"));
        v.lanes.source(v.product(), units, rows).with(wgsl!("input/plain.wgsl")).constant("GROUP", v.group.rows())
    }

    fn grid(v: Variant, p: &Params) -> Grid {
        Grid { x: p.n.div_ceil(v.group.tile(v.lanes, v.ty)), y: p.rows }
    }

    fn cost(_: Variant, p: &Params) -> u64 {
        times([p.rows, p.share, p.n, p.k])
    }

    fn sparse_reads(_: Variant, p: &Params) -> Option<SparseReads> {
        let most = (p.rows * p.share).min(p.experts);
        Some(SparseReads { binding: "w", choice: SparseUnit::Experts, most, of: p.experts })
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        // What the two kernels give, whose CPU kernels round the products.
        let mut products = vec![0.0; (p.rows * p.share * p.n) as usize];
        let product = of_pairs(p);
        product.compute(
            product::Variant { epilogue: Epilogue::Store, ..v.product() },
            host.w,
            host.x,
            &runs(p, host.ids),
            &mut products,
        );
        for (t, y) in host.y.chunks_exact_mut(p.n as usize).enumerate().take(p.rows as usize) {
            for (j, y) in y.iter_mut().enumerate() {
                let pairs = t * p.share as usize..(t + 1) * p.share as usize;
                let terms = pairs.map(|i| f64::from(host.weights[i]) * f64::from(products[i * p.n as usize + j]));
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
                for i in t * p.share as usize..(t + 1) * p.share as usize {
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
        // Rows that are no multiple of a tile, and more experts a token than are summed at once; one block; Qwen3-30B-A3B's
        // inner size.
        let shapes = [(3, 40, 9, 2 * block.max(32)), (1, 1, 1, block.max(4)), (2, 33, 8, 768)];
        let count = if v.group == Group::One { 1 } else { shapes.len() };
        shapes
            .into_iter()
            .take(count)
            .zip(0..)
            .filter_map(|((rows, n, share, k), seed)| case(v, rows, n, share, k, seed))
            .collect()
    }
}

/// The pairs' products.
fn of_pairs(p: &Params) -> Product {
    Product {
        rows: p.rows * p.share,
        n: p.n,
        k: p.k,
        y_stride: p.n,
        y_offset: 0,
        share: 1,
        experts: p.experts,
        first_expert: 0,
        held: p.experts,
        matrix_rows: p.n,
        x_offset: 0,
        tile: super::TileType::F32,
    }
}

/// Every pair with its matrix.
fn runs(p: &Params, ids: &[u32]) -> Vec<product::Run> {
    let pairs = ids.iter().take((p.rows * p.share) as usize).enumerate();
    pairs.map(|(i, id)| ((*id).min(p.experts - 1), vec![i])).collect()
}

fn case(v: Variant, rows: u32, n: u32, share: u32, k: u64, seed: u64) -> Option<Case<GemvSum>> {
    let experts = 5;
    let weights = TestWeights::random(v.ty, u64::from(experts * n), k, seed)?;
    let mut rng = Rng::new(seed + 300);
    let mut random = |count: u64| -> Vec<f32> { (0..count).map(|_| rng.normal()).collect() };
    let pairs = rows * share;
    let x = random(u64::from(pairs) * k);
    // An id that is out of range becomes the last.
    let ids = (0..pairs).map(|i| if i == 1 { 99 } else { (i * 3 + 1) % experts }).collect();
    let params = Params {
        rows,
        n,
        k: k as u32,
        row_units: weights.planes.row_units(),
        units: weights.planes.units(),
        share,
        experts,
        matrix_rows: n,
    };
    let (factors, y) = (random(u64::from(pairs)), random(u64::from(rows * n) + 1));
    let data = Data { w: weights.words, x: bytemuck::pod_collect_to_vec(&x), ids, weights: factors, y };
    Some(Case::of_reference(format!("{rows}x{share}x{n}x{k}"), v, params, data))
}
