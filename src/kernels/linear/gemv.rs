//! Matrix times a few rows: `y[i] = W · x[i]`.

use super::{
    Epilogue, Group, Input, Lanes, Rows, TileType,
    product::{self, Product, Run, Trial, params_of, product},
};
use crate::{
    gpu::{Caps, Case, Grid, Kernel, ReductionOrder, Source, SparseReads, kernel, times, wgsl},
    kernels::elementwise::rms_norm,
    quant::{Rng, WeightType},
};

kernel! {
    /// `y[i, y_offset + j] = Σ_d W[first(i) + j, d] · x[input(i), d]`, added to what is there, or gated.
    ///
    /// Shapes: `w` is `[held · matrix_rows, k]` of any format in [`Planes`](crate::quant::Planes), `x` rows of `k` f32 from
    /// element `x_offset` on (a multiple of 4), `ids` `[rows]` from `ids_offset` on, `y` rows of `y_stride` f32. A matrix
    /// has `n` rows, gated ones `2·n` ([`Epilogue::Gate`](super::Epilogue::Gate)). Dense: `first(i) = 0`, `input(i) = i`.
    /// Expert: `first(i) = (ids[i] − first_expert) · matrix_rows`, `input(i) = i / share`; ids are clamped, and rows whose
    /// expert is not in `w` are left as they are: a stack that is larger than a binding is multiplied part by part.
    ///
    /// Normed: `x` is first divided by its root mean square and multiplied by `norm` `[k]`, as
    /// [`RmsNorm`](crate::kernels::elementwise::rms_norm::RmsNorm) does, whose bits it keeps.
    ///
    /// Bound: 1e-5 of `Σ |W · x|`, and normed what the norm's bound on `x`, 5.1e-6 of it and 1e-7 of the row's RMS, becomes
    /// when it is multiplied by `|W|`; gated as [`Epilogue::Gate`](super::Epilogue::Gate) makes of it. Measured worst on lavapipe:
    /// 0.26 of it, and 0.5 where next to nothing is added to an output.
    pub struct Gemv("linear/gemv") for Variant;
    params {
        /// Rows of the output.
        rows: u32,
        /// Outputs of a row.
        n: u32,
        /// Weights of an output.
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
        /// First element of `x`.
        x_offset: u32,
        /// First element of `ids`.
        ids_offset: u32,
        /// Normed: added to the mean square.
        eps: f32,
    }
    binds {
        /// The weights' planes.
        w: read [[u32; 4]],
        /// The inputs.
        x: read [[f32; 4]],
        /// The norm's weight of each input.
        norm: read [[f32; 4]] if |v| v.input == Input::Normed,
        /// The expert of each row.
        ids: read [u32] if |v| v.rows == Rows::Expert,
        /// The outputs.
        y: write [f32],
    }
}

/// Format, rows, epilogue, lanes, their group and input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The weights' format.
    pub ty: WeightType,
    /// One matrix, or one an expert.
    pub rows: Rows,
    /// What happens to the products. What is normed is not added to anything.
    pub epilogue: Epilogue,
    /// What invocations share out.
    pub lanes: Lanes,
    /// Weight rows of eight lanes of units.
    pub group: Group,
    /// What becomes of the activations before.
    pub input: Input,
}

impl Variant {
    /// Without what is about lanes and input.
    fn product(self) -> product::Variant {
        product::Variant { ty: self.ty, rows: self.rows, epilogue: self.epilogue }
    }
}

impl Kernel for Gemv {
    fn supported(caps: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for (lanes, group) in Lanes::grouped(caps) {
            for product::Variant { ty, rows, epilogue } in product::Variant::all() {
                all.push(Variant { ty, rows, epilogue, lanes, group, input: Input::Plain });
                if epilogue != Epilogue::Accumulate {
                    all.push(Variant { ty, rows, epilogue, lanes, group, input: Input::Normed });
                }
            }
        }
        all
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        v.lanes.reduction_order()
    }

    fn source(v: Variant) -> Source {
        let source = v.lanes.source(v.product(), wgsl!("linear/gemv.wgsl"), wgsl!("linear/gemv_rows.wgsl"));
        v.input.fill(source, v.lanes).with(v.rows.fragment()).constant("GROUP", v.group.rows())
    }

    fn grid(v: Variant, p: &Params) -> Grid {
        Grid { x: p.matrix_rows.div_ceil(v.group.tile(v.lanes, v.ty)), y: p.rows }
    }

    fn cost(_: Variant, p: &Params) -> u64 {
        // Every row decodes the weights anew.
        times([p.rows, p.matrix_rows, p.k])
    }

    fn sparse_reads(v: Variant, p: &Params) -> Option<SparseReads> {
        product!(p, x_offset: p.x_offset).sparse_reads(v.rows)
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let product = product!(p, x_offset: p.x_offset);
        let x = Inputs::new(v, p, host.x, host.norm);
        product.compute(v.product(), host.w, &x.values, &runs(v, p, &product, host.ids), host.y);
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let product = product!(p, x_offset: p.x_offset);
        let x = Inputs::new(v, p, before.x, before.norm);
        let runs = runs(v, p, &product, before.ids);
        let y = product.define_near(v.product(), before.w, &x.values, &x.bounds, &runs, before.y);
        Some(Expected { y: Some(y), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let block = v.ty.block_len() as u64;
        // Rows that are no multiple of a tile; one block; Qwen3-30B-A3B's hidden size; a tail beyond the last whole unit
        // for floats.
        let mut shapes = vec![(5, 40, 2 * block.max(32)), (1, 1, block.max(4)), (2, 33, 2048)];
        if block == 1 {
            shapes.push((2, 5, 36));
        }
        if v.group == Group::One {
            // Which rows a group has differs, not how they are decoded.
            return shapes.into_iter().take(1).filter_map(|shape| case(v, None, shape, None, 0)).collect();
        }
        let mut cases: Vec<_> =
            shapes.into_iter().zip(0..).filter_map(|(shape, seed)| case(v, None, shape, None, seed)).collect();
        for (name, blocks) in crate::quant::hard_blocks(v.ty, 7) {
            cases.extend(case(v, Some(name), (1, 4, 2 * block.max(32)), Some(&blocks), 11));
        }
        cases
    }
}

/// What is multiplied.
struct Inputs {
    values: Vec<[f32; 4]>,
    /// How far off each value may be; empty where they are as they were given.
    bounds: Vec<f64>,
}

impl Inputs {
    fn new(v: Variant, p: &Params, x: &[[f32; 4]], norm: &[[f32; 4]]) -> Self {
        let (mut values, mut bounds) = (x.to_vec(), Vec::new());
        if v.input == Input::Normed {
            let norm: &[f32] = bytemuck::cast_slice(norm);
            let floats: &mut [f32] = bytemuck::cast_slice_mut(&mut values);
            bounds = vec![0.0; floats.len()];
            let start = (p.x_offset as usize).min(floats.len());
            let rows =
                floats[start..].chunks_exact_mut(p.k as usize).zip(bounds[start..].chunks_exact_mut(p.k as usize));
            for (row, bounds) in rows {
                let exact: Vec<f64> = row.iter().map(|x| f64::from(*x)).collect();
                for ((x, bound), (value, near)) in row.iter_mut().zip(bounds).zip(rms_norm::near(&exact, norm, p.eps)) {
                    // The value is rounded here once more.
                    (*x, *bound) = (value as f32, near + 1e-7 * value.abs());
                }
            }
        }
        Self { values, bounds }
    }
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
) -> Option<Case<Gemv>> {
    // Inputs and ids start somewhere in their buffers.
    let (x_offset, ids_offset) = (8, if v.rows == Rows::Expert { 3 } else { 0 });
    // Experts that are bound, one that is not, and an id that is out of range.
    let expert = |i: u32| [3, 4, 99, 0, 1].get(i as usize).copied().unwrap_or(2);
    let trial = Trial::new(v.product(), TileType::F32, shape, x_offset, expert, blocks, seed)?;
    let ids = if trial.ids.is_empty() { Vec::new() } else { [&[77; 3], &trial.ids[..]].concat() };
    let name = name.map_or_else(|| format!("{}x{}x{}", shape.0, shape.1, shape.2), str::to_owned);
    let mut params = params_of!(trial, x_offset: x_offset, ids_offset: ids_offset, eps: 0.0);
    let mut data = Data { w: trial.w, x: trial.x, norm: Vec::new(), ids, y: trial.y };
    if v.input == Input::Plain {
        return Some(Case { name, params, data, expected: Expected { y: Some(trial.expected), ..Default::default() } });
    }
    params.eps = 1e-6;
    let mut rng = Rng::new(seed + 200);
    data.norm = (0..shape.2 / 4).map(|_| [(); 4].map(|()| 1.0 + 0.1 * rng.normal())).collect();
    Some(Case::of_reference(name, v, params, data))
}
