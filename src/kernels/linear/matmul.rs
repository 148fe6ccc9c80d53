//! What the kernels that multiply rows by weight matrices share: parameters, the product on the host, and test cases.

use super::{Epilogue, Indexing, TestWeights, TileType, gemm::TileRows};
use crate::{
    gpu::{Expect, Fragment, Source, SparseReads, SparseUnit, param_group, wgsl},
    kernels::moe::sort,
    quant::{Planes, Rng, WeightType},
};

param_group! {
    /// The shape of a matrix product.
    pub struct Matmul {
        /// Rows of the output.
        rows: u32,
        /// Outputs of a row.
        n: u32,
        /// Weights of a row of a matrix.
        k: u32,
        /// Blocks of 32 weights of a row of a matrix: [`Planes::k_blocks`].
        k_blocks: u32,
        /// Blocks of 32 weights in `w`: [`Planes::blocks`].
        n_blocks: u32,
        /// Rows of a matrix: [`Epilogue::weight_rows`] of `n`.
        weight_rows: u32,
        /// Distance between rows of `y`.
        y_stride: u32,
        /// First output of a row of `y`.
        y_offset: u32,
        /// What happens to the products: [`Epilogue::code`].
        epilogue: u32,
        /// Consecutive rows of the output that share an input row.
        rows_per_input: u32,
        /// Experts of the whole stack of matrices.
        experts: u32,
        /// The expert whose matrix is the first in `w`.
        first_expert: u32,
        /// Matrices in `w`.
        local_experts: u32,
    }
}

/// Rows of the output that meet one matrix: its number in `w`, and the rows.
pub(super) type Run = (u32, Vec<usize>);

impl Matmul {
    /// Returns the product of `rows` rows with one matrix that has these planes.
    pub fn dense(planes: &Planes, rows: u32, epilogue: Epilogue) -> Self {
        let weight_rows = planes.rows() as u32;
        let n = epilogue.outputs(weight_rows);
        Self {
            rows,
            n,
            k: planes.k() as u32,
            k_blocks: planes.k_blocks(),
            n_blocks: planes.blocks(),
            weight_rows,
            y_stride: n,
            y_offset: 0,
            epilogue: epilogue.code(),
            rows_per_input: 1,
            experts: 1,
            first_expert: 0,
            local_experts: 1,
        }
    }

    /// Returns the product of `rows` assignments with a stack of `experts` matrices that has these planes.
    pub fn experts(planes: &Planes, experts: u32, rows: u32, rows_per_input: u32, epilogue: Epilogue) -> Self {
        let weight_rows = planes.rows() as u32 / experts.max(1);
        let n = epilogue.outputs(weight_rows);
        let dense = Self::dense(planes, rows, epilogue);
        Self { n, weight_rows, y_stride: n, rows_per_input, experts, local_experts: experts, ..dense }
    }

    /// Returns what happens to the products.
    pub(super) fn epilogue(&self) -> Epilogue {
        Epilogue::from_code(self.epilogue)
    }

    /// Returns the number in `w` of an expert's matrix, if it is there. Ids are clamped to the experts.
    pub(super) fn local_expert(&self, id: u32) -> Option<u32> {
        id.min(self.experts - 1).checked_sub(self.first_expert).filter(|expert| *expert < self.local_experts)
    }

    /// Returns the experts whose matrices are read: at most as many as there are rows.
    pub(super) fn sparse_reads(&self, indexing: Indexing) -> Option<SparseReads> {
        let most = self.rows.min(self.experts);
        (indexing == Indexing::Expert).then_some(SparseReads {
            binding: "w",
            choice: SparseUnit::Experts,
            most,
            of: self.experts,
        })
    }

    /// Returns each row with its matrix, if that is in `w`. `ids` are the rows' experts.
    pub(super) fn runs_of_rows(&self, indexing: Indexing, ids: &[u32]) -> Vec<Run> {
        match indexing {
            Indexing::Dense => self.dense_run(),
            Indexing::Expert => {
                let ids = ids.iter().take(self.rows as usize).enumerate();
                ids.filter_map(|(i, id)| Some((self.local_expert(*id)?, vec![i]))).collect()
            }
        }
    }

    /// Returns the rows of each of the first `count` of `tiles`, with their matrices.
    pub(super) fn runs_of_tiles(
        &self,
        indexing: Indexing,
        count: u32,
        assignments: &[u32],
        tiles: &[[u32; 4]],
    ) -> Vec<Run> {
        if indexing == Indexing::Dense {
            return self.dense_run();
        }
        let runs = tiles.iter().take(count as usize).filter_map(|[expert, first, end, _]| {
            let matrix = self.local_expert(*expert)?;
            let rows = assignments.get(*first as usize..(*end).min(self.rows) as usize)?;
            Some((matrix, rows.iter().map(|row| (*row).min(self.rows - 1) as usize).collect()))
        });
        runs.collect()
    }

    /// Returns all rows with the one matrix.
    fn dense_run(&self) -> Vec<Run> {
        vec![(0, (0..self.rows as usize).collect())]
    }
}

/// A product as the host computes it, for CPU kernels and references.
pub(super) struct HostMatmul<'a> {
    pub(super) shape: Matmul,
    pub(super) ty: WeightType,
    pub(super) indexing: Indexing,
    /// The type in which factors are multiplied.
    pub(super) tile: TileType,
    pub(super) w: &'a [[u32; 4]],
    pub(super) x: &'a [[f32; 4]],
    /// First element of `x`.
    pub(super) x_offset: u32,
}

impl HostMatmul<'_> {
    /// Calls `see` for each output with its index in `y`, the decoded weights of its one or two rows (of one, the second is
    /// empty), the index of its activations in `x`, and the activations.
    fn each(&self, runs: &[Run], mut see: impl FnMut(usize, [&[f32]; 2], usize, &[f32])) {
        let p = &self.shape;
        let rows = u64::from(p.local_experts) * u64::from(p.weight_rows);
        let Some(planes) = Planes::new(self.ty, rows, u64::from(p.k)) else { return };
        let (k, epilogue) = (p.k as usize, p.epilogue());
        let x: &[f32] = bytemuck::cast_slice(self.x);
        let mut weights = [vec![0.0; k], vec![0.0; if epilogue.is_gated() { k } else { 0 }]];
        for (matrix, rows) in runs {
            for j in 0..p.n {
                // A row of weights is decoded once for all rows of a run.
                epilogue.decode(&planes, self.w, matrix * p.weight_rows, j, &mut weights);
                for i in rows {
                    let input = if self.indexing == Indexing::Expert { i / p.rows_per_input as usize } else { *i };
                    let at = i * p.y_stride as usize + (p.y_offset + j) as usize;
                    let first = self.x_offset as usize + input * k;
                    see(at, weights.each_ref().map(Vec::as_slice), first, &x[first..][..k]);
                }
            }
        }
    }

    /// Computes the outputs, as a CPU kernel does.
    pub(super) fn compute(&self, runs: &[Run], y: &mut [f32]) {
        self.each(runs, |at, weights, _, x| {
            let products = weights.map(|w| self.tile.product(w, x));
            y[at] = self.shape.epilogue().apply(f64::from(y[at]), products) as f32;
        });
    }

    /// Returns the reference of the outputs, given `y` before the dispatch.
    pub(super) fn reference(&self, runs: &[Run], y: &[f32]) -> Expect {
        self.reference_near(&[], runs, y)
    }

    /// Returns the reference of the outputs where each activation may be `off` by as much. An empty `off` means exact.
    pub(super) fn reference_near(&self, off: &[f64], runs: &[Run], y: &[f32]) -> Expect {
        let mut y = Expect::unchanged(y);
        self.each(runs, |at, weights, first, x| {
            let off = off.get(first..).unwrap_or_default();
            let product = |w: &[f32]| {
                let (sum, bound) = self.tile.dot(w, x);
                (sum, bound + w.iter().zip(off).map(|(w, off)| f64::from(*w).abs() * off).sum::<f64>())
            };
            y[at] = self.shape.epilogue().bounded(y[at].0, weights.map(product));
        });
        self.tile.expect(y)
    }
}

/// Returns a source with the format and the activations filled in. Its kernel splits K or rows.
pub(super) fn source(body: Fragment, workgroup: u32, ty: WeightType) -> Source {
    Source::new(body, workgroup)
        .with_all(super::quant(ty))
        .with(wgsl!("input/vec4.wgsl"))
        .constant("WHOLE_BLOCKS", ty.block_len() >= 32)
}

/// Fills the slot `tiles`: which rows a workgroup has, at most `tile_rows`, and which matrix they meet.
pub(super) fn tiles(source: Source, indexing: Indexing, tile_rows: u32) -> Source {
    let fragment = match indexing {
        Indexing::Dense => wgsl!("indexing/tiles_dense.wgsl"),
        Indexing::Expert => wgsl!("indexing/tiles_expert.wgsl"),
    };
    source.with(fragment).constant("TILE_M", tile_rows)
}

/// The formats of the weight matrices in the files of the models that `tests/it/coverage.rs` lists. The suite runs these in
/// the forms of which it does not run every format.
pub(super) const COMMON_FORMATS: [WeightType; 5] =
    [WeightType::F32, WeightType::F16, WeightType::Q8_0, WeightType::Q4K, WeightType::Q6K];

/// Returns whether the suite runs this format in one form of each kernel and indexing only. All kernels decode a format by
/// the same functions.
pub(super) fn is_sampled(ty: WeightType) -> bool {
    use WeightType::{
        IQ1M, IQ1S, IQ2S, IQ2XS, IQ2XXS, IQ3S, IQ3XXS, IQ4NL, IQ4XS, MXFP4, NVFP4, Q2K, Q3K, TQ1_0, TQ2_0,
    };
    matches!(
        ty,
        Q2K | Q3K | IQ4NL | IQ4XS | TQ1_0 | TQ2_0 | MXFP4 | NVFP4 | IQ1M | IQ1S | IQ2S | IQ2XS | IQ2XXS | IQ3S | IQ3XXS
    )
}

/// The shape of a test case.
#[derive(Clone, Copy, Debug)]
pub(super) struct TestShape {
    pub(super) rows: u32,
    pub(super) n: u32,
    pub(super) k: u64,
    pub(super) epilogue: Epilogue,
}

impl TestShape {
    /// Returns the shapes, the first with every epilogue. The others have one gate: both take the same way.
    pub(super) fn with_epilogues(shapes: &[(u32, u32, u64)]) -> Vec<Self> {
        let with = |(i, (rows, n, k)): (usize, (u32, u32, u64))| {
            let epilogues = Epilogue::ALL.into_iter().filter(move |epilogue| i == 0 || *epilogue != Epilogue::GateGelu);
            epilogues.map(move |epilogue| Self { rows, n, k, epilogue })
        };
        shapes.iter().copied().enumerate().flat_map(with).collect()
    }

    /// Returns the name of a case of this shape.
    pub(super) fn name(&self) -> String {
        let Self { rows, n, k, epilogue } = self;
        format!("{rows}x{n}x{k}, {epilogue:?}")
    }
}

/// Inputs of a product and the expected outputs. The reference decodes the file's bytes and not the planes.
pub(super) struct TestMatmul {
    pub(super) shape: Matmul,
    pub(super) w: Vec<[u32; 4]>,
    pub(super) x: Vec<[f32; 4]>,
    /// The expert of each row. Empty if there is one matrix.
    pub(super) ids: Vec<u32>,
    pub(super) y: Vec<f32>,
    pub(super) expected: Expect,
}

impl TestMatmul {
    /// Returns a product with one matrix, or with experts 1 to 4 of 6: row `i` has expert `expert(i)`, and rows of other
    /// experts stay as they are. Weights are random, or `blocks` over and over.
    pub(super) fn new(
        (ty, indexing, tile): (WeightType, Indexing, TileType),
        TestShape { rows, n, k, epilogue }: TestShape,
        x_offset: u32,
        expert: impl Fn(u32) -> u32,
        blocks: Option<&[u8]>,
        seed: u64,
    ) -> Option<Self> {
        let (experts, first_expert, local_experts, rows_per_input) =
            if indexing == Indexing::Expert { (6, 1, 4, 2) } else { (1, 0, 1, 1) };
        let weight_rows = epilogue.weight_rows(n);
        let weights = match blocks {
            Some(raw) => TestWeights::from_blocks(ty, u64::from(local_experts * weight_rows), k, raw)?,
            None => TestWeights::random(ty, u64::from(local_experts * weight_rows), k, seed)?,
        };
        let shape = Matmul {
            rows,
            n,
            k: k as u32,
            k_blocks: weights.planes.k_blocks(),
            n_blocks: weights.planes.blocks(),
            weight_rows,
            y_stride: n + 3,
            y_offset: 2,
            epilogue: epilogue.code(),
            rows_per_input,
            experts,
            first_expert,
            local_experts,
        };
        let mut rng = Rng::new(seed + 100);
        let mut x = vec![f32::NAN; x_offset as usize];
        x.extend((0..u64::from(rows.div_ceil(rows_per_input)) * k).map(|_| rng.normal()));
        // An outlier, as activations of trained models have them.
        x[x_offset as usize] = 1e3;
        if tile == TileType::F16 && rows > TileRows::ThirtyTwo.count() {
            // Beyond the largest f16, and a subnormal one.
            (x[1], x[2]) = (-1e5, 1e-6);
        }
        let ids: Vec<u32> = if indexing == Indexing::Expert { (0..rows).map(expert).collect() } else { Vec::new() };
        let mut y = vec![f32::NAN; (rows * shape.y_stride) as usize];
        let mut expected = vec![(f64::NAN, 0.0); y.len()];
        for i in 0..rows {
            let id = ids.get(i as usize).copied().unwrap_or(0);
            let Some(matrix) = shape.local_expert(id) else { continue };
            let input = &x[x_offset as usize + (i / rows_per_input) as usize * k as usize..];
            for j in 0..n {
                let at = (i * shape.y_stride + shape.y_offset + j) as usize;
                if epilogue == Epilogue::Accumulate {
                    y[at] = 0.5;
                }
                expected[at] = weights.output(epilogue, tile, matrix * weight_rows, j, input, y[at]);
            }
        }
        let (w, x) = (weights.words, bytemuck::pod_collect_to_vec(&x));
        Some(Self { shape, w, x, ids, y, expected: tile.expect(expected) })
    }

    /// Returns the assignments by expert, tiles of at most `tile_rows` of them, and the number of tiles.
    pub(super) fn tiles(&self, tile_rows: u32) -> (Vec<u32>, Vec<[u32; 4]>, u32) {
        let Matmul { rows, experts, .. } = self.shape;
        if self.ids.is_empty() {
            return (Vec::new(), Vec::new(), rows.div_ceil(tile_rows));
        }
        let max_tiles = sort::max_tiles(rows, experts, tile_rows);
        let params = sort::Params { assignments: rows, experts, tile_rows, max_tiles, ..Default::default() };
        let sort::Sorted { sorted, mut tiles, .. } = sort::sorted(&params, &self.ids);
        // One more, of an expert and of rows that do not exist.
        tiles.push([u32::MAX; 4]);
        (sorted, tiles, max_tiles + 1)
    }
}
