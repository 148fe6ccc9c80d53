//! What the kernels that multiply rows by weight matrices share: variants, slots, the product in f64, and test cases.

use super::{Epilogue, Rows, TestWeights, TileType, gemm::TileRows};
use crate::{
    gpu::{Expect, Fragment, Source, SparseReads, SparseUnit, wgsl},
    kernels::moe::bucket,
    quant::{Planes, Rng, WeightType},
};

/// Format, rows and epilogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variant {
    /// The weights' format.
    pub ty: WeightType,
    /// One matrix, or one an expert.
    pub rows: Rows,
    /// What happens to the products.
    pub epilogue: Epilogue,
}

impl Variant {
    pub(super) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for ty in WeightType::ALL {
            for rows in [Rows::Dense, Rows::Expert] {
                all.extend(Epilogue::ALL.map(|epilogue| Self { ty, rows, epilogue }));
            }
        }
        all
    }

    /// A source with the epilogue, the format and the inputs filled in.
    pub(super) fn source(self, body: Fragment, workgroup: u32) -> Source {
        self.epilogue
            .fill(Source::new(body, workgroup))
            .with_all(super::quant(self.ty))
            .with(wgsl!("input/vec4.wgsl"))
            .constant("WHOLE_UNITS", self.ty.block_len() >= 32)
    }

    /// Fills the `tiles` slot: which rows a workgroup has, up to `tile_rows`, and which matrix they meet.
    pub(super) fn tiles(self, source: Source, tile_rows: u32) -> Source {
        let fragment = match self.rows {
            Rows::Dense => wgsl!("tiles/dense.wgsl"),
            Rows::Expert => wgsl!("tiles/expert.wgsl"),
        };
        source.with(fragment).constant("TILE_M", tile_rows)
    }
}

/// Rows of the output that meet one matrix: its number among those that are bound, and the rows.
pub(super) type Run = (u32, Vec<usize>);

/// The parameters that all these kernels have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) rows: u32,
    pub(super) n: u32,
    pub(super) k: u32,
    pub(super) y_stride: u32,
    pub(super) y_offset: u32,
    pub(super) share: u32,
    pub(super) experts: u32,
    pub(super) first_expert: u32,
    pub(super) held: u32,
    pub(super) matrix_rows: u32,
    pub(super) x_offset: u32,
    /// What is multiplied.
    pub(super) tile: TileType,
}

/// The [`Product`] of a kernel's parameters, of f32.
macro_rules! product {
    ($p:expr, x_offset: $x_offset:expr) => {{
        let p = $p;
        $crate::kernels::linear::product::Product {
            rows: p.rows,
            n: p.n,
            k: p.k,
            y_stride: p.y_stride,
            y_offset: p.y_offset,
            share: p.share,
            experts: p.experts,
            first_expert: p.first_expert,
            held: p.held,
            matrix_rows: p.matrix_rows,
            x_offset: $x_offset,
            tile: $crate::kernels::linear::TileType::F32,
        }
    }};
}
pub(super) use product;

impl Product {
    /// The matrix of an expert among those that are bound.
    pub(super) fn held_of(&self, id: u32) -> Option<u32> {
        id.min(self.experts - 1).checked_sub(self.first_expert).filter(|e| *e < self.held)
    }

    /// The experts' matrices that are read: no more than there are rows.
    pub(super) fn sparse_reads(&self, rows: Rows) -> Option<SparseReads> {
        let most = self.rows.min(self.experts);
        (rows == Rows::Expert).then_some(SparseReads {
            binding: "w",
            choice: SparseUnit::Experts,
            most,
            of: self.experts,
        })
    }

    /// All rows with the one matrix.
    pub(super) fn dense_run(&self) -> Vec<Run> {
        vec![(0, (0..self.rows as usize).collect())]
    }

    /// The matrices that rows meet by `pairs` and the first `count` of `tiles`.
    pub(super) fn runs_of_tiles(&self, rows: Rows, count: u32, pairs: &[u32], tiles: &[[u32; 4]]) -> Vec<Run> {
        if rows == Rows::Dense {
            return self.dense_run();
        }
        let runs = tiles.iter().take(count as usize).filter_map(|[expert, first, end, _]| {
            let held = self.held_of(*expert)?;
            let pairs = pairs.get(*first as usize..(*end).min(self.rows) as usize)?;
            Some((held, pairs.iter().map(|pair| (*pair).min(self.rows - 1) as usize).collect()))
        });
        runs.collect()
    }

    /// Calls `see` for every output: its place in `y`, the decoded weights of its one or two rows, its activations'
    /// place in `x` and themselves.
    fn each(
        &self,
        v: Variant,
        w: &[[u32; 4]],
        x: &[[f32; 4]],
        runs: &[Run],
        mut see: impl FnMut(usize, [&[f32]; 2], usize, &[f32]),
    ) {
        let Some(planes) = Planes::new(v.ty, u64::from(self.held) * u64::from(self.matrix_rows), u64::from(self.k))
        else {
            return;
        };
        let k = self.k as usize;
        let x: &[f32] = bytemuck::cast_slice(x);
        let mut weights = [vec![0.0; k], vec![0.0; k]];
        for (matrix, rows) in runs {
            for j in 0..self.n {
                // A row of weights is decoded once for all rows of a run.
                v.epilogue.decode(&planes, w, matrix * self.matrix_rows, j, &mut weights);
                for i in rows {
                    let input = if v.rows == Rows::Expert { i / self.share as usize } else { *i };
                    let at = i * self.y_stride as usize + (self.y_offset + j) as usize;
                    let first = self.x_offset as usize + input * k;
                    see(at, weights.each_ref().map(Vec::as_slice), first, &x[first..][..k]);
                }
            }
        }
    }

    /// The CPU kernels.
    pub(super) fn compute(&self, v: Variant, w: &[[u32; 4]], x: &[[f32; 4]], runs: &[Run], y: &mut [f32]) {
        self.each(v, w, x, runs, |at, weights, _, x| {
            let value = |value: &f32| self.tile.value(*value);
            let product = |w: &[f32]| w.iter().zip(x).map(|(w, x)| value(w) * value(x)).sum::<f64>();
            y[at] = v.epilogue.apply(f64::from(y[at]), weights.map(product)) as f32;
        });
    }

    /// The definition of `y`, given what it holds before.
    pub(super) fn define(&self, v: Variant, w: &[[u32; 4]], x: &[[f32; 4]], runs: &[Run], y: &[f32]) -> Expect {
        self.define_near(v, w, x, &[], runs, y)
    }

    /// The same of activations each of which may be `off` by so much; none is where that is empty.
    pub(super) fn define_near(
        &self,
        v: Variant,
        w: &[[u32; 4]],
        x: &[[f32; 4]],
        off: &[f64],
        runs: &[Run],
        y: &[f32],
    ) -> Expect {
        let mut y = Expect::unchanged(y);
        self.each(v, w, x, runs, |at, weights, first, x| {
            let off = off.get(first..).unwrap_or_default();
            let product = |w: &[f32]| {
                let (sum, bound) = self.tile.dot(w, x);
                (sum, bound + w.iter().zip(off).map(|(w, off)| f64::from(*w).abs() * off).sum::<f64>())
            };
            y[at] = v.epilogue.bounded(y[at].0, weights.map(product));
        });
        self.tile.expect(y)
    }
}

/// Inputs of a product and what must come out, by another way to the weights than the definition's.
pub(super) struct Trial {
    pub(super) product: Product,
    pub(super) row_units: u32,
    pub(super) units: u32,
    pub(super) w: Vec<[u32; 4]>,
    pub(super) x: Vec<[f32; 4]>,
    /// The expert of each row; empty for one matrix.
    pub(super) ids: Vec<u32>,
    pub(super) y: Vec<f32>,
    pub(super) expected: Expect,
}

impl Trial {
    /// `rows` rows of `n` outputs of `k` weights: of experts 1 to 4 of 6 by `expert`, the others' rows staying as they
    /// are. Weights are random, or `blocks` again and again.
    pub(super) fn new(
        v: Variant,
        tile: TileType,
        (rows, n, k): (u32, u32, u64),
        x_offset: u32,
        expert: impl Fn(u32) -> u32,
        blocks: Option<&[u8]>,
        seed: u64,
    ) -> Option<Self> {
        let (experts, first_expert, held, share) = if v.rows == Rows::Expert { (6, 1, 4, 2) } else { (1, 0, 1, 1) };
        let matrix_rows = v.epilogue.matrix_rows(n);
        let weights = match blocks {
            Some(raw) => TestWeights::from_blocks(v.ty, u64::from(held * matrix_rows), k, raw)?,
            None => TestWeights::random(v.ty, u64::from(held * matrix_rows), k, seed)?,
        };
        let (y_stride, y_offset) = (n + 3, 2);
        let product = Product {
            rows,
            n,
            k: k as u32,
            y_stride,
            y_offset,
            share,
            experts,
            first_expert,
            held,
            matrix_rows,
            x_offset,
            tile,
        };
        let mut rng = Rng::new(seed + 100);
        let mut x = vec![f32::NAN; x_offset as usize];
        x.extend((0..u64::from(rows.div_ceil(share)) * k).map(|_| rng.normal()));
        // An outlier, as trained models have them.
        x[x_offset as usize] = 1e3;
        if tile == TileType::F16 && rows > TileRows::ThirtyTwo.count() {
            // Beyond the largest half, and a subnormal one.
            (x[1], x[2]) = (-1e5, 1e-6);
        }
        let ids: Vec<u32> = if v.rows == Rows::Expert { (0..rows).map(expert).collect() } else { Vec::new() };
        let mut y = vec![f32::NAN; (rows * y_stride) as usize];
        let mut expected = vec![(f64::NAN, 0.0); y.len()];
        for i in 0..rows {
            let id = ids.get(i as usize).copied().unwrap_or(0);
            let Some(matrix) = product.held_of(id) else { continue };
            let input = &x[x_offset as usize + (i / share) as usize * k as usize..];
            for j in 0..n {
                let at = (i * y_stride + y_offset + j) as usize;
                if v.epilogue == Epilogue::Accumulate {
                    y[at] = 0.5;
                }
                expected[at] = weights.output(v.epilogue, tile, matrix * matrix_rows, j, input, y[at]);
            }
        }
        Some(Self {
            product,
            row_units: weights.planes.row_units(),
            units: weights.planes.units(),
            w: weights.words,
            x: bytemuck::pod_collect_to_vec(&x),
            ids,
            y,
            expected: tile.expect(expected),
        })
    }

    /// Pairs, tiles of up to `tile_rows` and the number of these.
    pub(super) fn tiles(&self, tile_rows: u32) -> (Vec<u32>, Vec<[u32; 4]>, u32) {
        let Product { rows, experts, .. } = self.product;
        if self.ids.is_empty() {
            return (Vec::new(), Vec::new(), rows.div_ceil(tile_rows));
        }
        let max_tiles = bucket::max_tiles(rows, experts, tile_rows);
        let params = bucket::Params { pairs: rows, experts, tile_rows, max_tiles, ..Default::default() };
        let bucket::Buckets { sorted, mut tiles, .. } = bucket::buckets(&params, &self.ids);
        // One more, of an expert and rows that there are not.
        tiles.push([u32::MAX; 4]);
        (sorted, tiles, max_tiles + 1)
    }
}

/// A kernel's parameters of a trial, with those that it has beside the product's.
macro_rules! params_of {
    ($trial:expr $(, $field:ident: $value:expr)* $(,)?) => {{
        let trial = &$trial;
        let p = trial.product;
        Params {
            rows: p.rows,
            n: p.n,
            k: p.k,
            row_units: trial.row_units,
            units: trial.units,
            y_stride: p.y_stride,
            y_offset: p.y_offset,
            share: p.share,
            experts: p.experts,
            first_expert: p.first_expert,
            held: p.held,
            matrix_rows: p.matrix_rows,
            $($field: $value),*
        }
    }};
}
pub(super) use params_of;
