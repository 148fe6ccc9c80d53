//! GEMV: a matrix times a few rows, `y[i] = W · x[i]`.

use super::{
    Indexing, Input, RowsPerGroup, Split, TileType,
    matmul::{self, COMMON_FORMATS, HostMatmul, Matmul, TestMatmul, TestShape},
};
use crate::{
    gpu::{Caps, Case, Grid, Kernel, ReductionOrder, Source, SparseReads, kernel, times, wgsl},
    kernels::elementwise::rms_norm,
    quant::{Rng, WeightType},
};

kernel! {
    /// `y[i, y_offset + j] = Σ_d W[first(i) + j, d] · x[input(i), d]`, added to `y`, or gated
    /// ([`Epilogue`](super::Epilogue)).
    ///
    /// Shapes: `w` is `[local_experts · weight_rows, k]` of any format in [`Planes`](crate::quant::Planes); `x` has rows of
    /// `k` f32 from element `x_offset` on (a multiple of 4); `ids` is `[rows]` from `ids_offset` on; `y` has rows of
    /// `y_stride` f32. A matrix has `n` rows, or `2·n` with a gate. Dense: `first(i) = 0`, `input(i) = i`. Expert:
    /// `first(i) = (ids[i] − first_expert) · weight_rows`, `input(i) = i / rows_per_input`; ids are clamped. A row whose
    /// expert is not in `w` stays as it is, so that a stack larger than a binding is multiplied part by part.
    ///
    /// Normed: `x` is first divided by its root mean square and multiplied by `norm` `[k]`, to the same bits as by
    /// [`RmsNorm`](crate::kernels::elementwise::rms_norm::RmsNorm).
    ///
    /// Bound: `1e-5·Σ|W·x|`. With a fused norm, add `Σ|W|·(5.1e-6·|x| + 1e-7·rms(x))`. [`Epilogue::Gate`](super::Epilogue::Gate)
    /// and [`Epilogue::Accumulate`](super::Epilogue::Accumulate) add theirs. Measured worst on lavapipe: 0.26 of it, and 0.5
    /// where almost nothing is added to an output.
    pub struct Gemv("linear/gemv") for Variant;
    params {
        /// The shape.
        matmul: Matmul,
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
        ids: read [u32] if |v| v.indexing == Indexing::Expert,
        /// The outputs.
        y: write [f32],
    }
}

/// Format, indexing, split and input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The weights' format.
    pub ty: WeightType,
    /// One matrix, or one per expert.
    pub indexing: Indexing,
    /// What the lanes split.
    pub split: Split,
    /// Weight rows of a group of lanes of [`Split::K`].
    pub rows_per_group: RowsPerGroup,
    /// What happens to the activations first.
    pub input: Input,
}

impl Kernel for Gemv {
    fn supported(caps: &Caps) -> Vec<Variant> {
        let mut all = Vec::new();
        for (split, rows_per_group) in Split::grouped(caps) {
            for ty in WeightType::ALL {
                // A token's experts have rows enough.
                let indexings =
                    if rows_per_group == RowsPerGroup::Quarter { &[Indexing::Dense] } else { &Indexing::ALL[..] };
                for indexing in indexings.iter().copied() {
                    all.extend(Input::ALL.map(|input| Variant { ty, indexing, split, rows_per_group, input }));
                }
            }
        }
        all
    }

    /// All but some formats with one matrix and a row a group: models of these formats are small ones, with 32 lanes a row. A
    /// sampled format with four plain rows a group, or where the lanes split the rows, with normed rows of one matrix and plain
    /// ones of experts.
    fn covered(caps: &Caps) -> Vec<Variant> {
        let one = |v: &Variant| v.indexing == Indexing::Dense && v.rows_per_group == RowsPerGroup::One;
        let sample = |v: &Variant| match v.split {
            Split::K => v.rows_per_group == RowsPerGroup::Four && v.input == Input::Plain,
            Split::Rows => (v.input == Input::Normed) == (v.indexing == Indexing::Dense),
        };
        let covered = |v: &Variant| match v.ty {
            ty if matmul::is_sampled(ty) => sample(v),
            ty => !one(v) || ty == WeightType::Q5_0 || COMMON_FORMATS.contains(&ty),
        };
        Self::supported(caps).into_iter().filter(covered).collect()
    }

    fn reduction_order(v: Variant) -> ReductionOrder {
        v.split.reduction_order()
    }

    fn source(v: Variant) -> Source {
        let k = match v.rows_per_group {
            RowsPerGroup::Quarter => wgsl!("linear/gemv_32_lanes.wgsl"),
            RowsPerGroup::One | RowsPerGroup::Four => wgsl!("linear/gemv.wgsl"),
        };
        let source = v.split.source(v.ty, k, wgsl!("software/gemv.wgsl"));
        let source = v.split.epilogue(source).with(v.indexing.fragment());
        v.input.fill(source, v.split).constant("ROWS_PER_GROUP", v.rows_per_group.rows())
    }

    fn grid(v: Variant, p: &Params) -> Grid {
        Grid { x: p.matmul.weight_rows.div_ceil(v.rows_per_group.tile(v.split, v.ty)), y: p.matmul.rows }
    }

    fn cost(_: Variant, p: &Params) -> u64 {
        // Every row decodes the weights anew.
        times([p.matmul.rows, p.matmul.weight_rows, p.matmul.k])
    }

    fn sparse_reads(v: Variant, p: &Params) -> Option<SparseReads> {
        p.matmul.sparse_reads(v.indexing)
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let x = Inputs::new(v, p, host.x, host.norm);
        let ids = host.ids.get(p.ids_offset as usize..).unwrap_or_default();
        host_matmul(v, p, host.w, &x.values).compute(&p.matmul.runs_of_rows(v.indexing, ids), host.y);
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let x = Inputs::new(v, p, before.x, before.norm);
        let ids = before.ids.get(p.ids_offset as usize..).unwrap_or_default();
        let runs = p.matmul.runs_of_rows(v.indexing, ids);
        let y = host_matmul(v, p, before.w, &x.values).reference_near(&x.bounds, &runs, before.y);
        Some(Expected { y: Some(y), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let block = v.ty.block_len() as u64;
        // A number of weight rows that is no multiple of a tile; one block; Qwen3-30B-A3B's hidden size; for floats, a row
        // that ends within a block of 32.
        let mut shapes = vec![(5, 40, 2 * block.max(32)), (1, 1, block.max(4)), (2, 33, 2048)];
        if block == 1 {
            shapes.push((2, 5, 36));
        }
        if v.rows_per_group == RowsPerGroup::Quarter {
            // More blocks than are kept at once.
            shapes.push((1, 4, 17 * 256));
        }
        let shapes = TestShape::with_epilogues(&shapes).into_iter().zip(0..);
        let mut cases: Vec<_> = shapes.filter_map(|(shape, seed)| case(v, shape.name(), shape, None, seed)).collect();
        let hard = TestShape { rows: 1, n: 4, k: 2 * block.max(32), epilogue: super::Epilogue::Store };
        for (name, blocks) in crate::quant::hard_blocks(v.ty, 7) {
            cases.extend(case(v, name.to_owned(), hard, Some(&blocks), 11));
        }
        cases
    }
}

fn host_matmul<'a>(v: Variant, p: &Params, w: &'a [[u32; 4]], x: &'a [[f32; 4]]) -> HostMatmul<'a> {
    let (ty, indexing, tile) = (v.ty, v.indexing, TileType::F32);
    HostMatmul { shape: p.matmul, ty, indexing, tile, w, x, x_offset: p.x_offset }
}

/// The activations that are multiplied.
struct Inputs {
    values: Vec<[f32; 4]>,
    /// How far off each value may be. Empty where the values are the kernel's input.
    bounds: Vec<f64>,
}

impl Inputs {
    fn new(v: Variant, p: &Params, x: &[[f32; 4]], norm: &[[f32; 4]]) -> Self {
        let (mut values, mut bounds) = (x.to_vec(), Vec::new());
        if v.input == Input::Normed {
            let norm: &[f32] = bytemuck::cast_slice(norm);
            let floats: &mut [f32] = bytemuck::cast_slice_mut(&mut values);
            bounds = vec![0.0; floats.len()];
            let (start, k) = ((p.x_offset as usize).min(floats.len()), p.matmul.k as usize);
            let rows = floats[start..].chunks_exact_mut(k).zip(bounds[start..].chunks_exact_mut(k));
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

fn case(v: Variant, name: String, shape: TestShape, blocks: Option<&[u8]>, seed: u64) -> Option<Case<Gemv>> {
    // Inputs and ids do not start at the beginning of their buffers.
    let (x_offset, ids_offset) = (8, if v.indexing == Indexing::Expert { 3 } else { 0 });
    // Experts in the binding, one that is not, and an id out of range.
    let expert = |i: u32| [3, 4, 99, 0, 1].get(i as usize).copied().unwrap_or(2);
    let test = TestMatmul::new((v.ty, v.indexing, TileType::F32), shape, x_offset, expert, blocks, seed)?;
    let ids = if test.ids.is_empty() { Vec::new() } else { [&[77; 3], &test.ids[..]].concat() };
    let mut params = Params { matmul: test.shape, x_offset, ids_offset, eps: 0.0 };
    let mut data = Data { w: test.w, x: test.x, norm: Vec::new(), ids, y: test.y };
    if v.input == Input::Plain {
        return Some(Case { name, params, data, expected: Expected { y: Some(test.expected), ..Default::default() } });
    }
    params.eps = 1e-6;
    let mut rng = Rng::new(seed + 200);
    data.norm = (0..shape.k / 4).map(|_| [(); 4].map(|()| 1.0 + 0.1 * rng.normal())).collect();
    Some(Case::of_reference(name, v, params, data))
}
