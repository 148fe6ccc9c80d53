//! Kernels that read weight matrices.

pub mod embed;
pub mod gemm;
pub mod gemv;
pub mod gemv_columns;
pub mod gemv_q8;
pub mod gemv_sum;
mod lanes;
mod mma;
mod product;
pub mod quantise;
mod tile;

pub use lanes::{Group, Input, Lanes};
pub use mma::Mma;
pub use tile::TileType;

use crate::{
    gpu::{Fragment, Source, wgsl},
    quant::{Planes, WeightType, random_blocks},
};

/// The type that activations have in products of single rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ActivationType {
    /// f32, as they are.
    #[default]
    F32,
    /// int8 in blocks of 32 with a scale, where the weights are codes too: [`GemvQ8`](gemv_q8::GemvQ8).
    Int8,
}

/// The slot `codes`: what a weight's code becomes.
#[derive(Clone, Copy, Debug)]
enum Codes {
    F32,
    I8,
}

/// The `quant` slot: how a format's units are decoded, with what it shares with others.
fn quant(ty: WeightType) -> Vec<Fragment> {
    quant_as(ty, Codes::F32)
}

/// The same, codes becoming what `codes` says.
fn quant_as(ty: WeightType, codes: Codes) -> Vec<Fragment> {
    let codes = match codes {
        Codes::F32 => wgsl!("quant/codes_f32.wgsl"),
        Codes::I8 => wgsl!("quant/codes_i8.wgsl"),
    };
    let mut fragments = format(ty);
    fragments.push(codes);
    fragments
}

fn format(ty: WeightType) -> Vec<Fragment> {
    const LIBRARY: Fragment = wgsl!("lib/quant.wgsl");
    const RUNS_32: Fragment = wgsl!("quant/runs_32.wgsl");
    const BLOCKS_256: Fragment = wgsl!("quant/blocks_256.wgsl");
    const SCALES_6BIT: Fragment = wgsl!("quant/scales_6bit.wgsl");
    match ty {
        WeightType::F32 => vec![LIBRARY, RUNS_32, wgsl!("quant/f32.wgsl")],
        WeightType::F16 => vec![LIBRARY, RUNS_32, wgsl!("quant/f16.wgsl")],
        WeightType::BF16 => vec![LIBRARY, RUNS_32, wgsl!("quant/bf16.wgsl")],
        WeightType::Q8_0 => vec![LIBRARY, RUNS_32, wgsl!("quant/q8_0.wgsl")],
        WeightType::Q4_0 => vec![LIBRARY, RUNS_32, wgsl!("quant/q4_0.wgsl")],
        WeightType::Q4_1 => vec![LIBRARY, RUNS_32, wgsl!("quant/q4_1.wgsl")],
        WeightType::Q5_0 => vec![LIBRARY, RUNS_32, wgsl!("quant/q5_0.wgsl")],
        WeightType::Q5_1 => vec![LIBRARY, RUNS_32, wgsl!("quant/q5_1.wgsl")],
        WeightType::Q4K => vec![LIBRARY, BLOCKS_256, SCALES_6BIT, wgsl!("quant/q4_k.wgsl")],
        WeightType::Q5K => vec![LIBRARY, BLOCKS_256, SCALES_6BIT, wgsl!("quant/q5_k.wgsl")],
        WeightType::Q6K => vec![LIBRARY, wgsl!("quant/q6_k.wgsl")],
    }
}

/// The `rows` slot: which weights and inputs a row of the output is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// One matrix for all rows.
    Dense,
    /// A matrix for each expert; a row is a (token, expert) pair.
    Expert,
}

impl Rows {
    pub(crate) fn fragment(self) -> Fragment {
        match self {
            Self::Dense => wgsl!("rows/dense.wgsl"),
            Self::Expert => wgsl!("rows/expert.wgsl"),
        }
    }
}

/// What happens to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// It is stored.
    Store,
    /// It is added to what is there.
    Accumulate,
    /// The matrix's rows are gates and values in turn: `silu(gate) · value` is stored (Shazeer 2020, arXiv:2002.05202).
    Gate,
}

impl Epilogue {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Store, Self::Accumulate, Self::Gate];

    /// Rows of a matrix with `n` outputs.
    pub fn matrix_rows(self, n: u32) -> u32 {
        if self == Self::Gate { 2 * n } else { n }
    }

    /// Outputs of `rows` rows of a matrix.
    pub fn outputs(self, rows: u32) -> u32 {
        if self == Self::Gate { rows / 2 } else { rows }
    }

    /// Gives a body its constants.
    fn fill(self, source: Source) -> Source {
        source
            .constant("ACCUMULATE", self == Self::Accumulate)
            .constant("GATED", self == Self::Gate)
            .with(wgsl!("lib/silu.wgsl"))
    }

    /// The weight rows of output `out` of the matrix that starts at row `first`: gate and value, or twice the same.
    fn weight_rows(self, first: u32, out: u32) -> [u32; 2] {
        if self == Self::Gate { [first + 2 * out, first + 2 * out + 1] } else { [first + out; 2] }
    }

    /// Decodes the weight rows of output `out` of the matrix that starts at row `first`.
    fn decode(self, planes: &Planes, words: &[[u32; 4]], first: u32, out: u32, weights: &mut [Vec<f32>; 2]) {
        let [row, value_row] = self.weight_rows(first, out);
        planes.decode_row(words, u64::from(row), &mut weights[0]);
        if self == Self::Gate {
            planes.decode_row(words, u64::from(value_row), &mut weights[1]);
        }
    }

    /// [`Epilogue::apply`] of products with their bounds, with the bound on what comes out. A sum is rounded once more.
    /// Gated, the errors of both products reach the output, the gate's with a slope of at most 1.1, and 5e-6 for the gate
    /// itself.
    fn bounded(self, before: f64, products: [(f64, f64); 2]) -> (f64, f64) {
        let [(product, bound), (value, value_bound)] = products;
        let exact = self.apply(before, [product, value]);
        match self {
            Self::Store => (exact, bound),
            Self::Accumulate => (exact, bound + 1e-7 * (before.abs() + product.abs())),
            Self::Gate => {
                let silu = self.apply(before, [product, 1.0]);
                (exact, value.abs() * 1.1 * bound + silu.abs() * value_bound + 5e-6 * (product * value).abs())
            }
        }
    }

    /// What becomes of the products of an output's weight rows (one, or gate and value), with what is there before.
    fn apply(self, before: f64, products: [f64; 2]) -> f64 {
        match self {
            Self::Store => products[0],
            Self::Accumulate => before + products[0],
            Self::Gate => products[0] / (1.0 + (-products[0]).exp()) * products[1],
        }
    }
}

/// Random weights for a test case, packed, with their decoded values.
pub(crate) struct TestWeights {
    pub(crate) planes: Planes,
    pub(crate) words: Vec<[u32; 4]>,
    /// `[rows, k]`, by the oracle from the file's bytes, not from the planes.
    pub(crate) values: Vec<f32>,
}

impl TestWeights {
    /// `rows` rows of `k` weights from `raw` blocks, repeated as often as it takes.
    pub(crate) fn from_blocks(ty: WeightType, rows: u64, k: u64, raw: &[u8]) -> Option<Self> {
        let planes = Planes::new(ty, rows, k)?;
        let raw: Vec<u8> = raw.iter().copied().cycle().take((planes.file_row_bytes() * rows) as usize).collect();
        let mut words = vec![[0; 4]; planes.vec4s() as usize];
        for part in planes.pack(0, &raw) {
            let start = part.start as usize;
            words.get_mut(start..start + part.words.len())?.copy_from_slice(&part.words);
        }
        let mut values = vec![0.0; (rows * k) as usize];
        crate::quant::decode(ty, &raw, &mut values).ok()?;
        Some(Self { planes, words, values })
    }

    /// Weights of about the size that trained ones have.
    pub(crate) fn random(ty: WeightType, rows: u64, k: u64, seed: u64) -> Option<Self> {
        let blocks = (rows * k) as usize / ty.block_len();
        Self::from_blocks(ty, rows, k, &random_blocks(ty, blocks, 0.05, seed))
    }

    /// Output `out` of the matrix that starts at weight row `first`, by `epilogue` from `before`, with its bound.
    fn output(&self, epilogue: Epilogue, tile: TileType, first: u32, out: u32, x: &[f32], before: f32) -> (f64, f64) {
        let k = self.planes.k() as usize;
        let products = epilogue.weight_rows(first, out).map(|row| tile.dot(&self.values[row as usize * k..][..k], x));
        epilogue.bounded(f64::from(before), products)
    }
}

/// The exact dot product of weights with `x`, and the bound on a kernel's error: 1e-5 of the sum of the terms' magnitudes.
/// WGSL lets a device take subnormal f32 for zero, so that each weight may be off by the smallest normal.
pub(crate) fn dot(weights: &[f32], x: &[f32]) -> (f64, f64) {
    let (mut sum, mut bound) = (0.0, f64::from(f32::MIN_POSITIVE));
    for (w, x) in weights.iter().zip(x) {
        let (w, x) = (f64::from(*w), f64::from(*x));
        sum += w * x;
        bound += 1e-5 * (w * x).abs() + f64::from(f32::MIN_POSITIVE) * x.abs();
    }
    (sum, bound)
}
