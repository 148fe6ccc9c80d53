//! How the invocations of a GEMV share out its work.

use super::{matmul, software};
use crate::{
    gpu::{Caps, Fragment, ReductionOrder, Source, wgsl},
    quant::WeightType,
};

/// How a product with a few rows of activations is shared out over eight lanes. Each split has its own order of sums, which
/// all kernels with this split keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Split {
    /// Lanes split K: they take turns at the blocks of a weight row, so that neighbours load neighbouring memory. For GPUs.
    K,
    /// Lanes split the weight rows: activations are loaded once and shuffled, and the header of a super-block is decoded
    /// once. For drivers that run on the CPU, where a load costs more than arithmetic.
    Rows,
}

impl Split {
    /// Returns the splits that a device supports.
    pub(crate) fn available(caps: &Caps) -> &'static [Self] {
        if caps.software_subgroup_8 { &[Self::K, Self::Rows] } else { &[Self::K] }
    }

    /// Returns the supported splits, each with the group sizes that a GEMV has.
    pub(super) fn grouped(caps: &Caps) -> impl Iterator<Item = (Self, RowsPerGroup)> {
        let all = Self::available(caps).iter();
        all.flat_map(|split| RowsPerGroup::available(*split).iter().map(|group| (*split, *group)))
    }

    /// Returns the order of sums. It does not depend on the number of activation rows.
    pub(super) fn reduction_order(self) -> ReductionOrder {
        ReductionOrder::new(match self {
            Self::K => "K split over 8 lanes",
            Self::Rows => "along K by blocks",
        })
    }

    /// Returns the source of a product: the body for this split, with what it needs.
    pub(super) fn source(self, ty: WeightType, k: Fragment, rows: Fragment) -> Source {
        match self {
            Self::K => matmul::source(k, 64, ty)
                .with(wgsl!("input/per_lane.wgsl"))
                .with(wgsl!("linear/k_split.wgsl"))
                .with(wgsl!("linear/k_split_rounded.wgsl")),
            Self::Rows => software::source(rows, ty).replace(super::Q6K_HEADER, wgsl!("software/q6_k_header.wgsl")),
        }
    }

    /// Adds the epilogue to the source of a product.
    pub(super) fn epilogue(self, source: Source) -> Source {
        let source = super::epilogue(source);
        match self {
            Self::K => source.with(wgsl!("linear/reduce_and_store.wgsl")),
            Self::Rows => source,
        }
    }
}

/// Weight rows that a group of eight lanes of [`Split::K`] has at a time. Fewer make more workgroups with fewer loads in
/// series; more load activations less often. The sums have the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum RowsPerGroup {
    /// A quarter: four groups share a row.
    Quarter,
    /// One.
    One,
    /// Four.
    Four,
}

impl RowsPerGroup {
    /// Returns the choices that a split has. With [`Split::Rows`] the number of rows follows from the format.
    pub(crate) const fn available(split: Split) -> &'static [Self] {
        match split {
            Split::K => &[Self::Four, Self::One, Self::Quarter],
            Split::Rows => &[Self::Four],
        }
    }

    /// Returns the number of rows that a lane has.
    pub(crate) const fn rows(self) -> u32 {
        match self {
            Self::Quarter | Self::One => 1,
            Self::Four => 4,
        }
    }

    /// Returns the number of lanes that share a row.
    pub(crate) const fn lanes(self) -> u32 {
        match self {
            Self::Quarter => 32,
            Self::One | Self::Four => 8,
        }
    }

    /// Returns it, or a whole row where it is less.
    pub(crate) const fn at_least_one(self) -> Self {
        match self {
            Self::Quarter | Self::One => Self::One,
            Self::Four => Self::Four,
        }
    }

    /// Returns how many weight rows of `ty` a workgroup multiplies by a row of activations.
    pub(crate) fn tile(self, split: Split, ty: WeightType) -> u32 {
        match split {
            Split::K => 64 / self.lanes() * self.rows(),
            Split::Rows => software::tile(ty),
        }
    }
}

/// What happens to activations before they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Nothing.
    Plain,
    /// They are normed, to the same bits as by [`RmsNorm`](crate::kernels::elementwise::rms_norm::RmsNorm).
    Normed,
}

impl Input {
    /// Both of them.
    pub(super) const ALL: [Self; 2] = [Self::Plain, Self::Normed];

    /// Fills the slot `input`.
    pub(super) fn fill(self, source: Source, split: Split) -> Source {
        match (self, split) {
            (Self::Plain, _) => source.with(wgsl!("input/plain.wgsl")),
            (Self::Normed, Split::K) => {
                source.with(wgsl!("input/normed.wgsl")).with(wgsl!("input/norm_shared_memory.wgsl"))
            }
            (Self::Normed, Split::Rows) => software::norm(source),
        }
    }
}
