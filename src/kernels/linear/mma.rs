//! How a GEMM multiplies its tiles.

use super::TileType;
use crate::gpu::{Caps, Source, wgsl};

/// The slot `mma` of [`Gemm`](super::gemm::Gemm): what multiplies the tiles in workgroup memory and sums in f32. Each has its
/// own order of sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Mma {
    /// Scalar multiply-adds of each invocation.
    #[default]
    Fma,
    /// Cooperative matrices of 8 by 8.
    Matrices8,
    /// Cooperative matrices of 16 by 16.
    Matrices16,
}

impl Mma {
    /// Returns what a device supports for tiles of this type.
    pub(crate) fn available(caps: &Caps, tile: TileType) -> Vec<Self> {
        let mut all = vec![Self::Fma];
        // Subgroups share a tile, so that shaders must know their number.
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

    /// Returns the name of the order of sums with tiles of this type.
    pub(super) const fn reduction_order(self, tile: TileType) -> &'static str {
        match (tile, self) {
            (TileType::F32, Self::Fma) => "along K",
            (TileType::F32, Self::Matrices8) => "along K, by matrices of 8",
            (TileType::F32, Self::Matrices16) => "along K, by matrices of 16",
            (TileType::F16, Self::Fma) => "along K, in f16",
            (TileType::F16, Self::Matrices8) => "along K, in f16 by matrices of 8",
            (TileType::F16, Self::Matrices16) => "along K, in f16 by matrices of 16",
        }
    }

    /// Returns the invocations of a workgroup. RDNA has subgroups of 64 with 16 by 16.
    pub(super) const fn workgroup(self) -> u32 {
        match self {
            Self::Fma | Self::Matrices8 => 128,
            Self::Matrices16 => 256,
        }
    }

    /// Fills the slot.
    pub(super) fn fill(self, source: Source) -> Source {
        let of_size = match self {
            Self::Fma => return source.with(wgsl!("mma/fma.wgsl")),
            Self::Matrices8 => wgsl!("mma/matrices_8.wgsl"),
            Self::Matrices16 => wgsl!("mma/matrices_16.wgsl"),
        };
        source.matrices(true).with(of_size)
    }
}
