//! Kernels that read weight matrices.

pub mod embed;
pub mod gemm;
pub mod gemv;
pub mod gemv_batched;
pub mod gemv_moe_combine;
pub mod gemv_q8;
mod matmul;
mod mma;
pub mod quantise;
mod software;
mod split;
mod tile;

pub use matmul::Matmul;
pub use mma::Mma;
pub use split::{Input, RowsPerGroup, Split};
pub use tile::TileType;

use crate::{
    gpu::{Fragment, Source, wgsl},
    quant::{Planes, WeightType, random_blocks},
};

/// The type of activations in products of single rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum ActivationType {
    /// f32.
    #[default]
    F32,
    /// int8 in blocks of 32 with a scale, for weights that are codes too: [`GemvQ8`](gemv_q8::GemvQ8).
    Int8,
}

/// The slot `codes`: the type of a decoded weight's code.
#[derive(Clone, Copy, Debug)]
enum Codes {
    F32,
    I8,
}

/// Fills the slot `quant`: how the blocks of a format are decoded.
fn quant(ty: WeightType) -> Vec<Fragment> {
    quant_as(ty, Codes::F32)
}

/// Fills the slot `quant` with codes of this type.
fn quant_as(ty: WeightType, codes: Codes) -> Vec<Fragment> {
    let mut fragments = format(ty);
    fragments.extend(match codes {
        Codes::F32 => vec![wgsl!("quant/codes_f32.wgsl"), BIASED_F32],
        Codes::I8 => vec![wgsl!("quant/codes_i8.wgsl")],
    });
    fragments
}

/// How codes that are stored plus a bias become f32.
const BIASED_F32: Fragment = wgsl!("quant/biased_f32.wgsl");
/// What is decoded once for a super-block of Q6_K, in products whose lanes split the rows.
const Q6K_HEADER: Fragment = wgsl!("quant/q6_k_header.wgsl");

/// How f16 scales and weights become f32. Both give the same bits, so that it is no variant of the kernels that decode weights: a
/// device compiles all of them with what its self-test has found ([`check_device`](crate::kernels::check_device)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum F16Conversion {
    /// By integers: some eight instructions each.
    Integers,
    /// By `unpack2x16float`, which may flush subnormals.
    Unpack,
}

impl F16Conversion {
    /// Returns the fragment with `q_f16`.
    pub(crate) const fn fragment(self) -> Fragment {
        match self {
            Self::Integers => wgsl!("quant/f16_integers.wgsl"),
            Self::Unpack => wgsl!("quant/f16_unpack.wgsl"),
        }
    }
}

fn format(ty: WeightType) -> Vec<Fragment> {
    const F16: Fragment = F16Conversion::Integers.fragment();
    const COMMON: Fragment = wgsl!("quant/common.wgsl");
    const BLOCKS_32: Fragment = wgsl!("quant/blocks_32.wgsl");
    const SUPER_BLOCKS: Fragment = wgsl!("quant/super_blocks.wgsl");
    const IN_ORDER: Fragment = wgsl!("quant/in_order.wgsl");
    const TWO_BITS: Fragment = wgsl!("quant/two_bits.wgsl");
    const IQ4_LEVELS: Fragment = wgsl!("quant/iq4_levels.wgsl");
    const SCALES_6BIT: Fragment = wgsl!("quant/scales_6bit.wgsl");
    const E2M1: Fragment = wgsl!("quant/e2m1.wgsl");
    const GRID: Fragment = wgsl!("quant/grid.wgsl");
    const SIGNS: Fragment = wgsl!("quant/grid_signs.wgsl");
    const IQ1: Fragment = wgsl!("quant/grid_iq1.wgsl");
    const IQ2: Fragment = wgsl!("quant/grid_iq2.wgsl");
    const IQ3: Fragment = wgsl!("quant/grid_iq3.wgsl");
    let (blocks, own): (&[Fragment], &[Fragment]) = match ty {
        WeightType::F32 => (&[BLOCKS_32, IN_ORDER], &[wgsl!("quant/f32.wgsl")]),
        WeightType::F16 => (&[BLOCKS_32, IN_ORDER], &[wgsl!("quant/f16.wgsl")]),
        WeightType::BF16 => (&[BLOCKS_32, IN_ORDER], &[wgsl!("quant/bf16.wgsl")]),
        WeightType::Q8_0 => (&[BLOCKS_32, IN_ORDER], &[wgsl!("quant/q8_0.wgsl")]),
        WeightType::Q4_0 => (&[BLOCKS_32, IN_ORDER], &[wgsl!("quant/q4_0.wgsl")]),
        WeightType::Q4_1 => (&[BLOCKS_32, IN_ORDER], &[wgsl!("quant/q4_1.wgsl")]),
        WeightType::Q5_0 => (&[BLOCKS_32, IN_ORDER], &[wgsl!("quant/q5_0.wgsl")]),
        WeightType::Q5_1 => (&[BLOCKS_32, IN_ORDER], &[wgsl!("quant/q5_1.wgsl")]),
        WeightType::Q4K => (&[SUPER_BLOCKS], &[SCALES_6BIT, wgsl!("quant/q4_k.wgsl")]),
        WeightType::Q5K => (&[SUPER_BLOCKS], &[SCALES_6BIT, wgsl!("quant/q5_k.wgsl")]),
        WeightType::Q6K => (&[], &[Q6K_HEADER, wgsl!("quant/q6_k.wgsl")]),
        WeightType::Q2K => (&[SUPER_BLOCKS], &[TWO_BITS, wgsl!("quant/q2_k.wgsl")]),
        WeightType::Q3K => (&[SUPER_BLOCKS], &[TWO_BITS, wgsl!("quant/q3_k.wgsl")]),
        WeightType::TQ1_0 => (&[SUPER_BLOCKS, IN_ORDER], &[wgsl!("quant/tq1_0.wgsl")]),
        WeightType::TQ2_0 => (&[SUPER_BLOCKS], &[TWO_BITS, wgsl!("quant/tq2_0.wgsl")]),
        WeightType::IQ4NL => (&[BLOCKS_32, IN_ORDER], &[IQ4_LEVELS, wgsl!("quant/iq4_nl.wgsl")]),
        WeightType::IQ4XS => (&[SUPER_BLOCKS, IN_ORDER], &[IQ4_LEVELS, wgsl!("quant/iq4_xs.wgsl")]),
        WeightType::MXFP4 => (&[BLOCKS_32, IN_ORDER], &[E2M1, wgsl!("quant/mxfp4.wgsl")]),
        WeightType::NVFP4 => (&[BLOCKS_32, IN_ORDER], &[E2M1, wgsl!("quant/nvfp4.wgsl")]),
        WeightType::IQ2XXS => (&[SUPER_BLOCKS, IN_ORDER], &[GRID, SIGNS, IQ2, wgsl!("quant/iq2_xxs.wgsl")]),
        WeightType::IQ2XS => (&[SUPER_BLOCKS, IN_ORDER], &[GRID, SIGNS, IQ2, wgsl!("quant/iq2_xs.wgsl")]),
        WeightType::IQ2S => (&[SUPER_BLOCKS, IN_ORDER], &[GRID, SIGNS, IQ2, wgsl!("quant/iq2_s.wgsl")]),
        WeightType::IQ3XXS => (&[SUPER_BLOCKS, IN_ORDER], &[GRID, SIGNS, IQ3, wgsl!("quant/iq3_xxs.wgsl")]),
        WeightType::IQ3S => (&[SUPER_BLOCKS, IN_ORDER], &[GRID, SIGNS, IQ3, wgsl!("quant/iq3_s.wgsl")]),
        WeightType::IQ1S => (&[SUPER_BLOCKS, IN_ORDER], &[GRID, IQ1, wgsl!("quant/iq1_s.wgsl")]),
        WeightType::IQ1M => (&[SUPER_BLOCKS, IN_ORDER], &[GRID, IQ1, wgsl!("quant/iq1_m.wgsl")]),
    };
    [&[F16, COMMON], blocks, own].concat()
}

/// The slots `rows` and `tiles`: which weights and inputs a row of the output is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Indexing {
    /// One matrix for all rows.
    Dense,
    /// A matrix for each expert. A row is the assignment of a token to an expert.
    Expert,
}

impl Indexing {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Dense, Self::Expert];

    /// Fills the slot `rows`.
    fn fragment(self) -> Fragment {
        match self {
            Self::Dense => wgsl!("indexing/rows_dense.wgsl"),
            Self::Expert => wgsl!("indexing/rows_expert.wgsl"),
        }
    }
}

/// What happens to a product. It is a parameter of a dispatch, so that no kernel has a variant for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// It is stored.
    #[default]
    Store,
    /// It is added to the output.
    Accumulate,
    /// A matrix's rows are gate and up alternately, and `silu(gate) · up` is stored (SwiGLU; Shazeer 2020,
    /// arXiv:2002.05202).
    Gate,
    /// A matrix's rows are gate and up alternately, and `gelu(gate) · up` is stored (GeGLU), with the approximation of GELU
    /// by the hyperbolic tangent.
    GateGelu,
}

impl Epilogue {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Store, Self::Accumulate, Self::Gate, Self::GateGelu];

    /// Returns the number that stands for it in the parameter `epilogue` and in WGSL.
    pub const fn code(self) -> u32 {
        self as u32
    }

    /// Returns the epilogue of a code; unknown codes store, as in WGSL.
    fn from_code(code: u32) -> Self {
        Self::ALL.into_iter().find(|epilogue| epilogue.code() == code).unwrap_or_default()
    }

    /// Returns whether an output is made of two weight rows, gate and up.
    fn is_gated(self) -> bool {
        matches!(self, Self::Gate | Self::GateGelu)
    }

    /// Returns the rows of a matrix with `n` outputs.
    pub fn weight_rows(self, n: u32) -> u32 {
        if self.is_gated() { 2 * n } else { n }
    }

    /// Returns the outputs of `rows` rows of a matrix.
    pub fn outputs(self, rows: u32) -> u32 {
        if self.is_gated() { rows / 2 } else { rows }
    }

    /// Returns the weight rows of output `out` of the matrix whose first row is `first`: gate and up, or the same row twice.
    fn rows_of_output(self, first: u32, out: u32) -> [u32; 2] {
        if self.is_gated() { [first + 2 * out, first + 2 * out + 1] } else { [first + out; 2] }
    }

    /// Decodes the weight rows of output `out` of the matrix whose first row is `first`.
    fn decode(self, planes: &Planes, words: &[[u32; 4]], first: u32, out: u32, weights: &mut [Vec<f32>; 2]) {
        let [row, up_row] = self.rows_of_output(first, out);
        planes.decode_row(words, u64::from(row), &mut weights[0]);
        if self.is_gated() {
            planes.decode_row(words, u64::from(up_row), &mut weights[1]);
        }
    }

    /// Returns [`Epilogue::apply`] of products with their bounds `b`, and its bound. Accumulate: `b + 1e-7·(|y| + |p|)`,
    /// since the sum is rounded once more. Gate: `1.1·|up|·b_gate + |silu(gate)|·b_up + 5e-6·|gate·up|`, where 1.1 bounds
    /// the slope of silu and 5e-6 is its own error; GateGelu: the same of gelu, whose slope is at most 1.13.
    fn bounded(self, before: f64, products: [(f64, f64); 2]) -> (f64, f64) {
        let [(product, bound), (up, up_bound)] = products;
        let exact = self.apply(before, [product, up]);
        match self {
            Self::Store => (exact, bound),
            Self::Accumulate => (exact, bound + 1e-7 * (before.abs() + product.abs())),
            Self::Gate | Self::GateGelu => {
                let slope = if self == Self::Gate { 1.1 } else { 1.13 };
                let activated = self.apply(before, [product, 1.0]);
                (exact, up.abs() * slope * bound + activated.abs() * up_bound + 5e-6 * (product * up).abs())
            }
        }
    }

    /// Returns the output for the products of its weight rows (one, or gate and up), given the output `before`.
    fn apply(self, before: f64, products: [f64; 2]) -> f64 {
        match self {
            Self::Store => products[0],
            Self::Accumulate => before + products[0],
            Self::Gate => products[0] / (1.0 + (-products[0]).exp()) * products[1],
            Self::GateGelu => {
                let [gate, up] = products;
                let z = (2.0 / std::f64::consts::PI).sqrt() * gate * (1.0 + 0.044_715 * gate * gate);
                gate / (1.0 + (-2.0 * z).exp()) * up
            }
        }
    }
}

/// Adds the epilogue to the source of a product.
fn epilogue(source: Source) -> Source {
    source.with(wgsl!("linear/epilogue.wgsl"))
}

/// Random weights of a test case: packed, and decoded.
pub(crate) struct TestWeights {
    pub(crate) planes: Planes,
    pub(crate) words: Vec<[u32; 4]>,
    /// `[rows, k]`, decoded from the file's bytes and not from the planes.
    pub(crate) values: Vec<f32>,
}

impl TestWeights {
    /// Returns `rows` rows of `k` weights from the blocks `raw`, over and over.
    pub(crate) fn from_blocks(ty: WeightType, rows: u64, k: u64, raw: &[u8]) -> Option<Self> {
        let planes = Planes::new(ty, rows, k)?;
        let raw: Vec<u8> = raw.iter().copied().cycle().take((planes.file_row_bytes() * rows) as usize).collect();
        let mut words = vec![[0; 4]; planes.vec4s() as usize];
        // Products with these are exact.
        let scales: Vec<f32> = match ty {
            WeightType::NVFP4 => (0..rows).map(|row| [1.0, 1.25, 0.5][row as usize % 3]).collect(),
            _ => Vec::new(),
        };
        for part in planes.pack_scaled(0, &raw, &scales) {
            let start = part.start as usize;
            words.get_mut(start..start + part.words.len())?.copy_from_slice(&part.words);
        }
        let mut values = vec![0.0; (rows * k) as usize];
        crate::quant::decode(ty, &raw, &mut values).ok()?;
        for (row, scale) in values.chunks_exact_mut(k as usize).zip(&scales) {
            row.iter_mut().for_each(|value| *value *= scale);
        }
        Some(Self { planes, words, values })
    }

    /// Returns weights of about the size of trained ones.
    pub(crate) fn random(ty: WeightType, rows: u64, k: u64, seed: u64) -> Option<Self> {
        let blocks = (rows * k) as usize / ty.block_len();
        Self::from_blocks(ty, rows, k, &random_blocks(ty, blocks, 0.05, seed))
    }

    /// Returns output `out` of the matrix whose first row is `first`, by `epilogue` from `before`, with its bound.
    fn output(&self, epilogue: Epilogue, tile: TileType, first: u32, out: u32, x: &[f32], before: f32) -> (f64, f64) {
        let k = self.planes.k() as usize;
        let products =
            epilogue.rows_of_output(first, out).map(|row| tile.dot(&self.values[row as usize * k..][..k], x));
        epilogue.bounded(f64::from(before), products)
    }
}

/// Returns the exact dot product of weights with `x`, and the bound on a kernel's error: `1e-5·Σ|w·x| + min·(1 + Σ|x|)`.
/// `min` is the smallest normal f32: WGSL lets a device flush a subnormal weight to zero.
pub(crate) fn dot(weights: &[f32], x: &[f32]) -> (f64, f64) {
    let (mut sum, mut bound) = (0.0, f64::from(f32::MIN_POSITIVE));
    for (w, x) in weights.iter().zip(x) {
        let (w, x) = (f64::from(*w), f64::from(*x));
        sum += w * x;
        bound += 1e-5 * (w * x).abs() + f64::from(f32::MIN_POSITIVE) * x.abs();
    }
    (sum, bound)
}
