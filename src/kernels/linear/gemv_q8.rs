//! Matrix times single rows of int8 activations.

use super::{
    Epilogue, Rows, TileType,
    product::{self, Product, Run, Trial, params_of, product},
    quantise::BLOCK,
};
use crate::{
    gpu::{Caps, Case, Grid, Kernel, Source, SparseReads, kernel, times, wgsl},
    quant::{Rng, WeightType},
};

kernel! {
    /// `y[i, y_offset + j] = Σ_d W[first(i) + j, d] · scales[input(i), d / 32] · x[input(i), d]`, added to what is there, or
    /// gated: [`Gemv`](super::gemv::Gemv) of activations that [`Quantise`](super::quantise::Quantise) has made int8. Codes of
    /// a run of 16 weights are multiplied and summed as integers, four at a time where the device can.
    ///
    /// Shapes: those of `Gemv`, `x` being int8, four in a word, `scales` f32; formats whose weights are codes of 8 bits or
    /// fewer. Bound: 1e-5 of `Σ |W · scale · x|`; gated as [`Epilogue::Gate`] makes of it.
    pub struct GemvQ8("linear/gemv_q8") for Variant;
    params {
        /// Rows of the output.
        rows: u32,
        /// Outputs of a row.
        n: u32,
        /// Weights of an output, a multiple of 32.
        k: u32,
        /// Units of weights of an output.
        row_units: u32,
        /// Units of weights in all.
        units: u32,
        /// Distance between rows of `y`.
        y_stride: u32,
        /// First output of a row of `y`.
        y_offset: u32,
        /// Output rows that have the same input row.
        share: u32,
        /// Experts of the whole stack.
        experts: u32,
        /// The expert whose matrix is the first in `w`.
        first_expert: u32,
        /// Matrices in `w`.
        held: u32,
        /// Rows of a matrix.
        matrix_rows: u32,
        /// First element of `ids`.
        ids_offset: u32,
    }
    binds {
        /// The weights' planes.
        w: read [[u32; 4]],
        /// The inputs' codes.
        x: read [[u32; 4]],
        /// The scale of each 32 inputs.
        scales: read [f32],
        /// The expert of each row.
        ids: read [u32] if |v| v.rows == Rows::Expert,
        /// The outputs.
        y: write [f32],
    }
}

/// Weight rows that a workgroup multiplies.
const TILE: u32 = 32;

/// Format, rows and epilogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The weights' format: one that is [`available`].
    pub ty: WeightType,
    /// One matrix, or one an expert.
    pub rows: Rows,
    /// What happens to the products.
    pub epilogue: Epilogue,
}

/// Whether weights of a format are codes that int8 can hold.
pub fn available(ty: WeightType) -> bool {
    ty.block_len() > 1
}

impl Variant {
    fn product(self) -> product::Variant {
        product::Variant { ty: self.ty, rows: self.rows, epilogue: self.epilogue }
    }
}

impl Kernel for GemvQ8 {
    fn supported(_: &Caps) -> Vec<Variant> {
        let with = |product::Variant { ty, rows, epilogue }| Variant { ty, rows, epilogue };
        product::Variant::all().into_iter().filter(|v| available(v.ty)).map(with).collect()
    }

    fn source(v: Variant) -> Source {
        v.epilogue
            .fill(Source::new(wgsl!("linear/gemv_q8.wgsl"), 64))
            .with_all(super::quant_as(v.ty, super::Codes::I8))
            .with(wgsl!("input/int8.wgsl"))
            .with(wgsl!("linear/lanes.wgsl"))
            .with(wgsl!("linear/epilogue.wgsl"))
            .with(v.rows.fragment())
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.matrix_rows.div_ceil(TILE), y: p.rows }
    }

    fn cost(_: Variant, p: &Params) -> u64 {
        times([p.rows, p.matrix_rows, p.k])
    }

    fn sparse_reads(v: Variant, p: &Params) -> Option<SparseReads> {
        product!(p, x_offset: 0).sparse_reads(v.rows)
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let product = product!(p, x_offset: 0);
        let x = inputs(host.x, host.scales);
        product.compute(v.product(), host.w, &x, &runs(v, p, &product, host.ids), host.y);
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let product = product!(p, x_offset: 0);
        let x = inputs(before.x, before.scales);
        let y = product.define(v.product(), before.w, &x, &runs(v, p, &product, before.ids), before.y);
        Some(Expected { y: Some(y), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let block = v.ty.block_len() as u64;
        let mut cases: Vec<_> = [(5, 40, 2 * block), (1, 1, block), (2, 33, 2048)]
            .into_iter()
            .zip(0..)
            .filter_map(|(shape, seed)| case(v, None, shape, None, seed))
            .collect();
        for (name, blocks) in crate::quant::hard_blocks(v.ty, 7) {
            cases.extend(case(v, Some(name), (1, 4, 2 * block), Some(&blocks), 11));
        }
        cases
    }
}

/// The activations that codes and scales stand for: exact, scales being powers of two, or rounded once.
fn inputs(x: &[[u32; 4]], scales: &[f32]) -> Vec<[f32; 4]> {
    let codes: &[i8] = bytemuck::cast_slice(x);
    let blocks = codes.chunks_exact(BLOCK as usize).zip(scales);
    let values: Vec<f32> = blocks.flat_map(|(codes, d)| codes.iter().map(move |q| f32::from(*q) * d)).collect();
    bytemuck::pod_collect_to_vec(&values)
}

/// Every row with its matrix, if it is bound.
fn runs(v: Variant, p: &Params, product: &Product, ids: &[u32]) -> Vec<Run> {
    match v.rows {
        Rows::Dense => product.dense_run(),
        Rows::Expert => {
            let ids = ids.iter().skip(p.ids_offset as usize).take(p.rows as usize);
            ids.enumerate().filter_map(|(i, id)| Some((product.held_of(*id)?, vec![i]))).collect()
        }
    }
}

fn case(
    v: Variant,
    name: Option<&str>,
    shape: (u32, u32, u64),
    blocks: Option<&[u8]>,
    seed: u64,
) -> Option<Case<GemvQ8>> {
    let ids_offset = if v.rows == Rows::Expert { 3 } else { 0 };
    // Experts that are bound, one that is not, and an id that is out of range.
    let expert = |i: u32| [3, 4, 99, 0, 1].get(i as usize).copied().unwrap_or(2);
    let trial = Trial::new(v.product(), TileType::F32, shape, 0, expert, blocks, seed)?;
    let ids = if trial.ids.is_empty() { Vec::new() } else { [&[77; 3], &trial.ids[..]].concat() };
    let name = name.map_or_else(|| format!("{}x{}x{}", shape.0, shape.1, shape.2), str::to_owned);
    let params = params_of!(trial, ids_offset: ids_offset);
    // Any codes, the largest among them, and scales of any size that activations have.
    let mut rng = Rng::new(seed + 300);
    let blocks = trial.x.len() * 4 / BLOCK as usize;
    let x = (0..2 * blocks)
        .map(|i| [(); 4].map(|()| if i == 1 { 0x7f81_7f81 } else { rng.next_u64() as u32 & 0x7f7f_7f7f ^ 0x0040_8000 }))
        .collect();
    let scales = (0..blocks).map(|_| 2f32.powi(rng.below(12) as i32 - 10)).collect();
    Some(Case::of_reference(name, v, params, Data { w: trial.w, x, scales, ids, y: trial.y }))
}
