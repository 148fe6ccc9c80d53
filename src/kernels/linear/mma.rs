//! How a GEMM multiplies its tiles.

use super::TileType;
use crate::gpu::{Caps, Source, wgsl};

/// The slot `mma` of [`Gemm`](super::gemm::Gemm): what multiplies the tiles in workgroup memory, and adds in f32. Each has its
/// order of sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Mma {
    /// Every invocation for itself.
    #[default]
    Fma,
    /// Cooperative matrices of 8 by 8, a subgroup each.
    Matrices8,
    /// Cooperative matrices of 16 by 16, a subgroup each.
    Matrices16,
}

impl Mma {
    /// Those a device can take for tiles of this type.
    pub(crate) fn available(caps: &Caps, tile: TileType) -> Vec<Self> {
        let mut all = vec![Self::Fma];
        // Subgroups share out a tile, so that their number must be known to shaders.
        if caps.subgroups {
            let has = caps.matrices;
            let (eight, sixteen) = match tile {
                TileType::F32 => (has.f32_8, false),
                TileType::F16 => (has.f16_8, has.f16_16),
            };
            all.extend(eight.then_some(Self::Matrices8));
            all.extend(sixteen.then_some(Self::Matrices16));
        }
        all
    }

    /// The name of its order of sums with tiles of this type.
    pub(super) const fn reduction_order(self, tile: TileType) -> &'static str {
        match (tile, self) {
            (TileType::F32, Self::Fma) => "along k",
            (TileType::F32, Self::Matrices8) => "along k, by matrices of 8",
            (TileType::F32, Self::Matrices16) => "along k, by matrices of 16",
            (TileType::F16, Self::Fma) => "along k, of halves",
            (TileType::F16, Self::Matrices8) => "along k, of halves by matrices of 8",
            (TileType::F16, Self::Matrices16) => "along k, of halves by matrices of 16",
        }
    }

    /// Fills the slot.
    pub(super) fn fill(self, source: Source) -> Source {
        let of_size = match self {
            Self::Fma => return source.with(wgsl!("mma/fma.wgsl")),
            Self::Matrices8 => wgsl!("mma/matrices_8.wgsl"),
            Self::Matrices16 => wgsl!("mma/matrices_16.wgsl"),
        };
        source.matrices(true).with(wgsl!("mma/matrices.wgsl")).with(of_size)
    }
}
