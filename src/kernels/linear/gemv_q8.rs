//! GEMV with int8 activations.

use super::{
    Epilogue, Indexing, TileType,
    matmul::{COMMON_FORMATS, HostMatmul, Matmul, TestMatmul, TestShape},
    quantise::BLOCK,
};
use crate::{
    gpu::{Caps, Case, Grid, Kernel, Source, SparseReads, kernel, times, wgsl},
    quant::{Rng, WeightType},
};

kernel! {
    /// `y[i, y_offset + j] = Σ_d W[first(i) + j, d] · scales[input(i), d / 32] · x[input(i), d]`, added to `y`, or gated:
    /// [`Gemv`](super::gemv::Gemv) with activations that [`Quantise`](super::quantise::Quantise) has made int8. The codes of
    /// half a block, 16 weights, are multiplied and summed as integers, by the device's packed dot product if it has one.
    ///
    /// Shapes: those of `Gemv`, with `x` as int8, four in a word, and `scales` f32. Only formats whose weights are codes of at
    /// most 8 bits. Bound: `1e-5·Σ|W·scale·x|`; [`Epilogue`] adds its own.
    pub struct GemvQ8("linear/gemv_q8") for Variant;
    params {
        /// The shape; `k` is a multiple of 32.
        matmul: Matmul,
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
        ids: read [u32] if |v| v.indexing == Indexing::Expert,
        /// The outputs.
        y: write [f32],
    }
}

/// Weight rows that a workgroup multiplies.
const TILE: u32 = 32;

/// Format and indexing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The weights' format, which must be [`available`].
    pub ty: WeightType,
    /// One matrix, or one per expert.
    pub indexing: Indexing,
}

/// Returns whether the weights of a format are codes that int8 can hold.
pub fn available(ty: WeightType) -> bool {
    ty.block_len() > 1
}

impl Kernel for GemvQ8 {
    fn supported(_: &Caps) -> Vec<Variant> {
        let with = |ty| Indexing::ALL.map(|indexing| Variant { ty, indexing });
        WeightType::ALL.into_iter().filter(|ty| available(*ty)).flat_map(with).collect()
    }

    /// Every format with one matrix, and the common ones with experts.
    fn covered(caps: &Caps) -> Vec<Variant> {
        let covered = |v: &Variant| v.indexing == Indexing::Dense || COMMON_FORMATS.contains(&v.ty);
        Self::supported(caps).into_iter().filter(covered).collect()
    }

    fn source(v: Variant) -> Source {
        super::epilogue(Source::new(wgsl!("linear/gemv_q8.wgsl"), 64))
            .with_all(super::quant_as(v.ty, super::Codes::I8))
            .with(wgsl!("input/int8.wgsl"))
            .with(wgsl!("linear/k_split.wgsl"))
            .with(wgsl!("linear/k_split_rounded.wgsl"))
            .with(wgsl!("linear/reduce_and_store.wgsl"))
            .with(v.indexing.fragment())
    }

    fn grid(_: Variant, p: &Params) -> Grid {
        Grid { x: p.matmul.weight_rows.div_ceil(TILE), y: p.matmul.rows }
    }

    fn cost(_: Variant, p: &Params) -> u64 {
        times([p.matmul.rows, p.matmul.weight_rows, p.matmul.k])
    }

    fn sparse_reads(v: Variant, p: &Params) -> Option<SparseReads> {
        p.matmul.sparse_reads(v.indexing)
    }

    fn cpu(v: Variant, p: &Params, host: Host<'_>) {
        let x = inputs(host.x, host.scales);
        let ids = host.ids.get(p.ids_offset as usize..).unwrap_or_default();
        host_matmul(v, p, host.w, &x).compute(&p.matmul.runs_of_rows(v.indexing, ids), host.y);
    }

    fn reference(v: Variant, p: &Params, before: Host<'_>) -> Option<Expected> {
        let x = inputs(before.x, before.scales);
        let ids = before.ids.get(p.ids_offset as usize..).unwrap_or_default();
        let y = host_matmul(v, p, before.w, &x).reference(&p.matmul.runs_of_rows(v.indexing, ids), before.y);
        Some(Expected { y: Some(y), ..Default::default() })
    }

    fn cases(v: Variant) -> Vec<Case<Self>> {
        let block = v.ty.block_len() as u64;
        let shapes = TestShape::with_epilogues(&[(5, 40, 2 * block), (1, 1, block), (2, 33, 2048)]);
        let shapes = shapes.into_iter().zip(0..);
        let mut cases: Vec<_> = shapes.filter_map(|(shape, seed)| case(v, shape.name(), shape, None, seed)).collect();
        let hard = TestShape { rows: 1, n: 4, k: 2 * block, epilogue: Epilogue::Store };
        for (name, blocks) in crate::quant::hard_blocks(v.ty, 7) {
            cases.extend(case(v, name.to_owned(), hard, Some(&blocks), 11));
        }
        cases
    }
}

fn host_matmul<'a>(v: Variant, p: &Params, w: &'a [[u32; 4]], x: &'a [[f32; 4]]) -> HostMatmul<'a> {
    let (ty, indexing, tile) = (v.ty, v.indexing, TileType::F32);
    HostMatmul { shape: p.matmul, ty, indexing, tile, w, x, x_offset: 0 }
}

/// Returns the activations that codes and scales represent. They are exact if scales are powers of two, else rounded once.
fn inputs(x: &[[u32; 4]], scales: &[f32]) -> Vec<[f32; 4]> {
    let codes: &[i8] = bytemuck::cast_slice(x);
    let blocks = codes.chunks_exact(BLOCK as usize).zip(scales);
    let values: Vec<f32> = blocks.flat_map(|(codes, d)| codes.iter().map(move |q| f32::from(*q) * d)).collect();
    bytemuck::pod_collect_to_vec(&values)
}

fn case(v: Variant, name: String, shape: TestShape, blocks: Option<&[u8]>, seed: u64) -> Option<Case<GemvQ8>> {
    let ids_offset = if v.indexing == Indexing::Expert { 3 } else { 0 };
    // Experts in the binding, one that is not, and an id out of range.
    let expert = |i: u32| [3, 4, 99, 0, 1].get(i as usize).copied().unwrap_or(2);
    let test = TestMatmul::new((v.ty, v.indexing, TileType::F32), shape, 0, expert, blocks, seed)?;
    let ids = if test.ids.is_empty() { Vec::new() } else { [&[77; 3], &test.ids[..]].concat() };
    let params = Params { matmul: test.shape, ids_offset };
    // Any codes, the largest among them, and scales of any size that activations have.
    let mut rng = Rng::new(seed + 300);
    let blocks = test.x.len() * 4 / BLOCK as usize;
    let x = (0..2 * blocks)
        .map(|i| [(); 4].map(|()| if i == 1 { 0x7f81_7f81 } else { rng.next_u64() as u32 & 0x7f7f_7f7f ^ 0x0040_8000 }))
        .collect();
    let scales = (0..blocks).map(|_| 2f32.powi(rng.below(12) as i32 - 10)).collect();
    Some(Case::of_reference(name, v, params, Data { w: test.w, x, scales, ids, y: test.y }))
}
