//! The element type of a GEMM's tiles in workgroup memory.

use std::array;

use crate::gpu::{Caps, Expect, Source, wgsl};

/// The slot `tile` of [`Gemm`](super::gemm::Gemm): the type of weights and activations in workgroup memory. Sums are always
/// f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum TileType {
    /// f32.
    #[default]
    F32,
    /// f16: half the workgroup memory. Weights and activations are clamped to ±65504.
    F16,
}

/// The largest f16.
const MAX_F16: f64 = 65504.0;
/// The smallest normal f16: a device may flush smaller ones to zero.
const MIN_F16: f64 = 1.0 / 16384.0;

impl TileType {
    /// Returns the types that a device supports: f16 needs the feature.
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

    /// Returns the value that is multiplied, before rounding to the type.
    pub(super) fn value(self, value: f32) -> f64 {
        match self {
            Self::F32 => f64::from(value),
            Self::F16 => f64::from(value).clamp(-MAX_F16, MAX_F16),
        }
    }

    /// Returns `Σ w·x` of factors of this type, as a CPU kernel computes it.
    pub(super) fn product(self, weights: &[f32], x: &[f32]) -> f64 {
        match self {
            Self::F32 => sum_of_products(weights, x),
            Self::F16 => weights.iter().zip(x).map(|(w, x)| self.value(*w) * self.value(*x)).sum(),
        }
    }

    /// Returns [`dot`](super::dot) for tiles of this type. For f16 the bound is `Σ e·|w·x|`: `e = 1e-3` covers rounding both
    /// factors to the nearest f16, and `e = 1` holds where a factor is a subnormal f16, which a device may flush to zero.
    pub(super) fn dot(self, weights: &[f32], x: &[f32]) -> (f64, f64) {
        if self == Self::F32 {
            return super::dot(weights, x);
        }
        let (mut sum, mut bound) = (0.0, f64::from(f32::MIN_POSITIVE));
        for (w, x) in weights.iter().zip(x) {
            let (w, x) = (self.value(*w), self.value(*x));
            let may_flush = w.abs() < MIN_F16 || x.abs() < MIN_F16;
            sum += w * x;
            bound += (w * x).abs() * if may_flush { 1.0 } else { 1e-3 };
        }
        (sum, bound)
    }

    /// Returns what outputs must hold: values near the exact ones, with f16 much nearer in the mean.
    pub(super) fn expect(self, values: Vec<(f64, f64)>) -> Expect {
        match self {
            Self::F32 => Expect::Near(values),
            Self::F16 => Expect::NearInMean { values, nmse: 1e-6 },
        }
    }
}

/// Returns `Σ w·x`, as eight sums: in one, each addition would wait for the last.
fn sum_of_products(weights: &[f32], x: &[f32]) -> f64 {
    let ((w_chunks, w_rest), (x_chunks, x_rest)) = (weights.as_chunks::<8>(), x.as_chunks::<8>());
    let product = |w: f32, x: f32| f64::from(w) * f64::from(x);
    let mut sums = [0.0; 8];
    for (w, x) in w_chunks.iter().zip(x_chunks) {
        sums = array::from_fn(|i| sums[i] + product(w[i], x[i]));
    }
    let rest = w_rest.iter().zip(x_rest).map(|(w, x)| product(*w, *x));
    sums.into_iter().chain(rest).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_values_are_clamped_and_may_be_flushed() {
        let near = |w: f32, x: f32| TileType::F16.dot(&[w], &[x]);
        assert_eq!(TileType::F32.dot(&[1e6], &[2.0]).0, 2e6);
        assert_eq!(near(1e6, 2.0).0, 131_008.0);
        assert_eq!(near(2.0, f32::NEG_INFINITY).0, -131_008.0);
        assert!((near(2.0, 3.0).1 - 6e-3).abs() < 1e-9);
        // A subnormal f16, and a value below all of them.
        for tiny in [6e-5, 1e-9] {
            let (exact, bound) = near(tiny, 3.0);
            assert!(bound >= exact && bound < 1.001 * exact, "{exact} {bound}");
        }
    }

    #[test]
    fn products_take_every_element_once() {
        for len in [0u32, 1, 7, 8, 9, 40] {
            let values: Vec<f32> = (1..=len).map(|i| i as f32).collect();
            let squares = f64::from(len * (len + 1) * (2 * len + 1) / 6);
            for tile in [TileType::F32, TileType::F16] {
                assert_eq!(tile.product(&values, &values), squares, "{len}");
            }
        }
    }
}
