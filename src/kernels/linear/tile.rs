//! What the tiles of a GEMM hold in workgroup memory.

use crate::gpu::{Caps, Expect, Source, wgsl};

/// The slot `tile` of [`Gemm`](super::gemm::Gemm): the type that weights and activations have in workgroup memory. Sums
/// are f32 whatever it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum TileType {
    /// f32, as weights are decoded and activations are stored.
    #[default]
    F32,
    /// IEEE halves: half the workgroup memory. Weights and activations beyond 65504 count as 65504.
    F16,
}

/// The largest half.
const MAX_HALF: f64 = 65504.0;
/// The smallest half that a device may not take for zero.
const MIN_HALF: f64 = 1.0 / 16384.0;

impl TileType {
    /// Those a device can take: halves need WGSL's type `f16`.
    pub(crate) fn available(caps: &Caps) -> &'static [Self] {
        if caps.f16 { &[Self::F32, Self::F16] } else { &[Self::F32] }
    }

    /// Fills the slot.
    pub(super) fn fill(self, source: Source) -> Source {
        match self {
            Self::F32 => source.with(wgsl!("linear/tile_f32.wgsl")),
            Self::F16 => source.f16(true).with(wgsl!("linear/tile_f16.wgsl")),
        }
    }

    /// What is multiplied in place of a value, before rounding.
    pub(super) fn value(self, value: f32) -> f64 {
        match self {
            Self::F32 => f64::from(value),
            Self::F16 => f64::from(value).clamp(-MAX_HALF, MAX_HALF),
        }
    }

    /// [`dot`](super::dot) for tiles of this type. Of halves the bound is 1e-3 of each term's magnitude, which is what
    /// rounding both factors to the nearest half can cost; and all of it where a factor is a subnormal half, which a
    /// device may take for zero.
    pub(super) fn dot(self, weights: &[f32], x: &[f32]) -> (f64, f64) {
        if self == Self::F32 {
            return super::dot(weights, x);
        }
        let (mut sum, mut bound) = (0.0, f64::from(f32::MIN_POSITIVE));
        for (w, x) in weights.iter().zip(x) {
            let (w, x) = (self.value(*w), self.value(*x));
            let vanishes = w.abs() < MIN_HALF || x.abs() < MIN_HALF;
            sum += w * x;
            bound += (w * x).abs() * if vanishes { 1.0 } else { 1e-3 };
        }
        (sum, bound)
    }

    /// What outputs must hold: near the exact values, those of halves in the mean much nearer.
    pub(super) fn expect(self, values: Vec<(f64, f64)>) -> Expect {
        match self {
            Self::F32 => Expect::Near(values),
            Self::F16 => Expect::NearInMean { values, nmse: 1e-6 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_clamped_and_may_vanish() {
        let near = |w: f32, x: f32| TileType::F16.dot(&[w], &[x]);
        assert_eq!(TileType::F32.dot(&[1e6], &[2.0]).0, 2e6);
        assert_eq!(near(1e6, 2.0).0, 131_008.0);
        assert_eq!(near(2.0, f32::NEG_INFINITY).0, -131_008.0);
        assert!((near(2.0, 3.0).1 - 6e-3).abs() < 1e-9);
        // A subnormal half, and what lies below all halves.
        for tiny in [6e-5, 1e-9] {
            let (exact, bound) = near(tiny, 3.0);
            assert!(bound >= exact && bound < 1.001 * exact, "{exact} {bound}");
        }
    }
}
