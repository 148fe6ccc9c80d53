//! Kernels that choose the next token: [`penalties`] on its logits, then [`argmax`], or [`top_k`] and [`draw`].
//!
//! A candidate is a pair `[key, id]`, the key being an integer in the order of the logits, so that what is chosen is exact:
//! larger keys come first, of equal ones the lower id. A NaN comes after all other logits.

pub mod argmax;
pub mod draw;
pub mod penalties;
pub mod philox;
pub mod top_k;

use crate::{
    gpu::{Source, wgsl},
    quant::Rng,
};

/// Candidates that [`top_k`] keeps of a row, and the most that [`draw`] chooses from.
pub const MAX_TOP_K: u32 = 64;

/// Candidates that a workgroup chooses from.
const ITEMS: u32 = 1024;

/// What comes after all candidates.
const LAST: [u32; 2] = [0, u32::MAX];

/// What a kernel that is run in stages chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// The logits.
    Logits,
    /// What the stage before has kept.
    Merge,
}

impl Stage {
    const ALL: [Self; 2] = [Self::Logits, Self::Merge];

    fn fill(self, source: Source) -> Source {
        source.with(wgsl!("lib/order.wgsl")).with(match self {
            Self::Logits => wgsl!("sample/from_logits.wgsl"),
            Self::Merge => wgsl!("sample/from_candidates.wgsl"),
        })
    }

    /// A row's candidates.
    fn row(self, logits: &[f32], candidates: &[[u32; 2]], row: u32, n: u32) -> Vec<[u32; 2]> {
        let range = (row * n) as usize..((row + 1) * n) as usize;
        match self {
            Self::Logits => (0u32..).zip(&logits[range]).map(|(id, logit)| [key(*logit), id]).collect(),
            Self::Merge => candidates[range].to_vec(),
        }
    }

    /// Rows of logits, or the same as candidates out of order, for cases.
    fn split(self, logits: Vec<f32>, n: u32) -> (Vec<f32>, Vec<[u32; 2]>) {
        match self {
            Self::Logits => (logits, Vec::new()),
            Self::Merge => {
                let ids = |i: usize| i as u32 % n * 977 % 99_991;
                let candidates = logits.iter().enumerate().map(|(i, logit)| [key(*logit), ids(i)]);
                (Vec::new(), candidates.collect())
            }
        }
    }
}

/// An integer in the order of the logits: 0 for a NaN, the same for both zeros.
fn key(logit: f32) -> u32 {
    const ZERO: u32 = 1 << 31;
    match logit.to_bits() {
        _ if logit.is_nan() => 0,
        bits if bits < ZERO => ZERO + bits,
        bits => ZERO - (bits - ZERO),
    }
}

/// The logit of a key, within 1e30 of zero; −1e30 of that of a NaN.
fn logit(key: u32) -> f32 {
    let magnitude = f32::from_bits(key.abs_diff(1 << 31).min(1e30f32.to_bits()));
    if key >= 1 << 31 { magnitude } else { -magnitude }
}

/// What sorts candidates.
fn order([key, id]: &[u32; 2]) -> (std::cmp::Reverse<u32>, u32) {
    (std::cmp::Reverse(*key), *id)
}

/// Logits that are hard to order, by name: rows, elements of a row, and the rows.
fn hard_logits() -> Vec<(&'static str, u32, u32, Vec<f32>)> {
    let mut rng = Rng::new(22);
    let mut random = |count: u32| -> Vec<f32> { (0..count).map(|_| 3.0 * rng.normal()).collect() };
    let mut with_nans = random(1500);
    (with_nans[0], with_nans[1200]) = (f32::NAN, -f32::NAN);
    // Halves and whole numbers only, so that many are equal.
    let coarse: Vec<f32> = random(2 * 3000).iter().map(|l| (l * 2.0).round() / 2.0).collect();
    let subnormal: Vec<f32> =
        (0..70).map(|i| f32::from_bits(i * 5 % 70) * if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
    vec![
        ("one", 2, 1, random(2)),
        ("fewer than are kept", 3, 5, random(15)),
        ("a whole group", 1, 1024, random(1024)),
        ("one more", 2, 1025, random(2050)),
        ("many equal", 2, 3000, coarse),
        ("all equal", 1, 1100, vec![-0.75; 1100]),
        ("two zeros", 1, 4, vec![-1.0, -0.0, 0.0, -0.0]),
        ("subnormal", 1, 70, subnormal),
        ("infinite and huge", 1, 6, vec![f32::MAX, f32::NEG_INFINITY, f32::INFINITY, f32::MIN, 0.0, f32::INFINITY]),
        ("NaNs among others", 1, 1500, with_nans),
        ("nothing but NaNs", 1, 70, vec![f32::NAN; 70]),
        ("the last is largest", 1, 2500, (0..2500).map(|i| i as f32).collect()),
        ("Qwen3-30B-A3B's vocabulary", 1, 151_936, random(151_936)),
    ]
}
