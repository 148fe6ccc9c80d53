//! Weight formats: the layouts of ggml's blocks, their decoder on the CPU, and random blocks to test with.
//!
//! The layouts and the numbering are those of ggml (`ggml.h`, `ggml-common.h`), as GGUF files store them.

mod decode;
mod grids;
mod planes;
mod rng;
mod synth;

pub use decode::{DecodeError, decode, decode_block};
pub use planes::{BLOCK, PlanePart, Planes, ROW_STEP};
pub use rng::Rng;
pub use synth::{HARD_WEIGHTS, hard_blocks, random_blocks};

use std::fmt;

/// A format in which a tensor's weights are stored.
///
/// A row of weights is a run of blocks of [`block_len`](Self::block_len) weights and
/// [`block_bytes`](Self::block_bytes) bytes each; all fields are little-endian.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WeightType {
    /// 32-bit float.
    F32,
    /// 16-bit IEEE float.
    F16,
    /// The upper 16 bits of a 32-bit float.
    BF16,
    /// 32 weights: `d` f16, 32 codes of 8 bits (signed); `d·q`.
    Q8_0,
    /// 32 weights: `d` f16, 16 bytes of two 4-bit codes; `d·(q − 8)`.
    Q4_0,
    /// 32 weights: `d`, `m` f16, 16 bytes of two 4-bit codes; `d·q + m`.
    Q4_1,
    /// 32 weights: `d` f16, 32 fifth bits, 16 bytes of two low codes; `d·(q − 16)`.
    Q5_0,
    /// 32 weights: `d`, `m` f16, 32 fifth bits, 16 bytes of two low codes; `d·q + m`.
    Q5_1,
    /// 256 weights: `d`, `dmin` f16, 8 six-bit scales and minima in 12 bytes, 128 bytes of two 4-bit codes;
    /// `d·sc·q − dmin·m`.
    Q4K,
    /// 256 weights: as [`Q4K`](Self::Q4K), with 32 bytes of fifth bits before the codes.
    Q5K,
    /// 256 weights: 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 signed scales of 8 bits, `d` f16;
    /// `d·sc·(q − 32)`.
    Q6K,
    /// 256 weights: 16 bytes of a 4-bit scale and a 4-bit minimum for each 16, 64 bytes of four 2-bit codes, `d`, `dmin`
    /// f16; `d·sc·q − dmin·m`.
    Q2K,
    /// 256 weights: 32 bytes of high bits, 64 bytes of the two low bits of four codes, 16 six-bit scales in 12 bytes, `d`
    /// f16; `d·(sc − 32)·(q − 4)`.
    Q3K,
    /// 32 weights: `d` f16, 16 bytes of two 4-bit codes of the non-linear table of 16 levels; `d·level(q)`.
    IQ4NL,
    /// 256 weights: `d` f16, 8 six-bit scales in 6 bytes, 128 bytes of two codes as in [`IQ4NL`](Self::IQ4NL);
    /// `d·(sc − 32)·level(q)`.
    IQ4XS,
    /// 256 ternary weights: 64 bytes of four 2-bit codes, `d` f16; `d·(q − 1)`.
    TQ2_0,
    /// 32 weights of OCP's Microscaling format: the exponent of a power of two (E8M0) and 16 bytes of two E2M1 codes.
    MXFP4,
    /// 256 weights: `d` f16; for each 32 weights four points of a grid (8 bits each), four groups of seven signs and a scale
    /// of 4 bits; `d·(2·sc + 1)/8·±point`. The eighth sign makes the number of minus signs even.
    IQ2XXS,
    /// 256 weights: `d` f16, 32 words of a point (9 bits) and seven signs, 16 four-bit scales; as [`IQ2XXS`](Self::IQ2XXS).
    IQ2XS,
    /// 256 weights: `d` f16, 32 bytes of points, 32 bytes of signs, 8 bytes of the points' high 2 bits, 16 four-bit scales; as
    /// [`IQ2XXS`](Self::IQ2XXS).
    IQ2S,
    /// 256 weights: `d` f16, 64 points of four weights (8 bits each), and for each 32 weights four groups of seven signs and a
    /// scale of 4 bits; `d·(2·sc + 1)/4·±point`.
    IQ3XXS,
    /// 256 weights: `d` f16, 64 bytes of points of four weights, 8 bytes of their ninth bits, 32 bytes of signs, 8 four-bit
    /// scales; `d·(2·sc + 1)·±point`.
    IQ3S,
    /// 256 weights: `d` f16, 32 bytes of points of eight ternary weights, 8 words of the points' high 3 bits, a scale of 3 bits
    /// and the sign of 1/8; `d·(2·sc + 1)·(point ± 1/8)`.
    IQ1S,
    /// 256 weights: 32 bytes of points, 32 times their high 3 bits and the sign of 1/8, 16 three-bit scales and `d` in 8
    /// bytes; as [`IQ1S`](Self::IQ1S).
    IQ1M,
    /// 256 ternary weights: 48 bytes of five digits of base 3, 4 bytes of four, `d` f16; `d·(q − 1)`.
    TQ1_0,
    /// 64 weights: 4 scales in UE4M3, and 32 bytes of two E2M1 codes.
    NVFP4,
}

/// What is fixed for each format.
struct Spec {
    name: &'static str,
    ggml_id: u32,
    block_len: usize,
    block_bytes: usize,
}

impl WeightType {
    /// Every format, in the order of declaration.
    pub const ALL: [WeightType; 26] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Q2K,
        Self::Q3K,
        Self::IQ4NL,
        Self::IQ4XS,
        Self::TQ2_0,
        Self::MXFP4,
        Self::IQ2XXS,
        Self::IQ2XS,
        Self::IQ2S,
        Self::IQ3XXS,
        Self::IQ3S,
        Self::IQ1S,
        Self::IQ1M,
        Self::TQ1_0,
        Self::NVFP4,
    ];

    const fn spec(self) -> Spec {
        let (name, ggml_id, block_len, block_bytes) = match self {
            Self::F32 => ("F32", 0, 1, 4),
            Self::F16 => ("F16", 1, 1, 2),
            Self::BF16 => ("BF16", 30, 1, 2),
            Self::Q8_0 => ("Q8_0", 8, 32, 34),
            Self::Q4_0 => ("Q4_0", 2, 32, 18),
            Self::Q4_1 => ("Q4_1", 3, 32, 20),
            Self::Q5_0 => ("Q5_0", 6, 32, 22),
            Self::Q5_1 => ("Q5_1", 7, 32, 24),
            Self::Q4K => ("Q4_K", 12, 256, 144),
            Self::Q5K => ("Q5_K", 13, 256, 176),
            Self::Q6K => ("Q6_K", 14, 256, 210),
            Self::Q2K => ("Q2_K", 10, 256, 84),
            Self::Q3K => ("Q3_K", 11, 256, 110),
            Self::IQ4NL => ("IQ4_NL", 20, 32, 18),
            Self::IQ4XS => ("IQ4_XS", 23, 256, 136),
            Self::TQ2_0 => ("TQ2_0", 35, 256, 66),
            Self::MXFP4 => ("MXFP4", 39, 32, 17),
            Self::IQ2XXS => ("IQ2_XXS", 16, 256, 66),
            Self::IQ2XS => ("IQ2_XS", 17, 256, 74),
            Self::IQ2S => ("IQ2_S", 22, 256, 82),
            Self::IQ3XXS => ("IQ3_XXS", 18, 256, 98),
            Self::IQ3S => ("IQ3_S", 21, 256, 110),
            Self::IQ1S => ("IQ1_S", 19, 256, 50),
            Self::IQ1M => ("IQ1_M", 29, 256, 56),
            Self::TQ1_0 => ("TQ1_0", 34, 256, 54),
            Self::NVFP4 => ("NVFP4", 40, 64, 36),
        };
        Spec { name, ggml_id, block_len, block_bytes }
    }

    /// Weights in one block: 1, 32, 64 or 256.
    pub const fn block_len(self) -> usize {
        self.spec().block_len
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> usize {
        self.spec().block_bytes
    }

    /// ggml's name of the format, such as `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.spec().name
    }

    /// The number that stands for the format in a GGUF file (`enum ggml_type`).
    pub const fn ggml_id(self) -> u32 {
        self.spec().ggml_id
    }

    /// The format with ggml's number `id`; `None` for one that this crate does not read.
    pub fn from_ggml_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|ty| ty.ggml_id() == id)
    }

    /// Bytes of a row of `k` weights; `None` if `k` is not a whole number of blocks, or the size overflows.
    pub const fn row_bytes(self, k: usize) -> Option<usize> {
        let Spec { block_len, block_bytes, .. } = self.spec();
        if k.is_multiple_of(block_len) { (k / block_len).checked_mul(block_bytes) } else { None }
    }
}

impl fmt::Display for WeightType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// ggml's name of the tensor type numbered `id`, also of types that this crate does not read and of types that ggml has
/// removed; `None` for a number that ggml has not given.
pub fn ggml_type_name(id: u32) -> Option<&'static str> {
    if let Some(ty) = WeightType::from_ggml_id(id) {
        return Some(ty.name());
    }
    Some(match id {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        41 => "Q1_0",
        _ => return None,
    })
}
