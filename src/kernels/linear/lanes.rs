//! What the invocations of a GEMV share out among them.

use super::product;
use crate::{
    gpu::{Caps, Fragment, ReductionOrder, Source, wgsl},
    quant::WeightType,
};

/// What invocations side by side have of a product with a few rows of activations. Each has its order of sums, which all
/// kernels of this choice keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Lanes {
    /// Units of a weight row, by turns: neighbours load neighbouring memory, as GPUs want it.
    Units,
    /// Weight rows: activations are loaded once for all and shuffled, and a block's scales are decoded once. For drivers
    /// that run on processors, where a load costs more than arithmetic wherever it goes.
    Rows,
}

impl Lanes {
    /// Those a device can take.
    pub(crate) fn available(caps: &Caps) -> &'static [Self] {
        if caps.min_subgroup_8 { &[Self::Units, Self::Rows] } else { &[Self::Units] }
    }

    /// The same, each with the groups that there are for it.
    pub(super) fn grouped(caps: &Caps) -> impl Iterator<Item = (Self, Group)> {
        let all = Self::available(caps).iter();
        all.flat_map(|lanes| Group::available(*lanes).iter().map(|group| (*lanes, *group)))
    }

    /// The order of sums, whatever the number of activation rows.
    pub(super) fn reduction_order(self) -> ReductionOrder {
        ReductionOrder::new(match self {
            Self::Units => "lanes of units",
            Self::Rows => "units in turn",
        })
    }

    /// Weight rows of `ty` that a workgroup multiplies with a row of activations: more where a row is decoded from few loads,
    /// among which those of activations count.
    pub(super) fn tile(self, ty: WeightType) -> u32 {
        match self {
            Self::Rows if ty.block_len() > 1 => 64,
            Self::Rows | Self::Units => 32,
        }
    }

    /// The source of a product, by the body for this choice.
    pub(super) fn source(self, v: product::Variant, units: Fragment, rows: Fragment) -> Source {
        let source = match self {
            Self::Units => v.source(units, 64).with(wgsl!("input/own.wgsl")).with(wgsl!("linear/lanes.wgsl")),
            Self::Rows => v
                .source(rows, 8)
                .subgroups(true)
                .constant("BLOCK_UNITS", (v.ty.block_len() as u32 / 32).max(1))
                .constant("LANE_ROWS", self.tile(v.ty) / 8)
                .with(wgsl!("input/shuffled.wgsl"))
                .with(wgsl!("linear/lane_rows.wgsl")),
        };
        source.with(wgsl!("linear/epilogue.wgsl"))
    }
}

/// Weight rows that eight lanes have at a time in products of single rows: fewer make more workgroups, more fetch activations
/// less often. The sums are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Group {
    /// One.
    One,
    /// Four.
    Four,
}

impl Group {
    /// Those that there are for a choice of lanes: of rows, a lane has as many as suit the format.
    pub(crate) const fn available(lanes: Lanes) -> &'static [Self] {
        match lanes {
            Lanes::Units => &[Self::Four, Self::One],
            Lanes::Rows => &[Self::Four],
        }
    }

    pub(super) const fn rows(self) -> u32 {
        match self {
            Self::One => 1,
            Self::Four => 4,
        }
    }

    /// Weight rows of `ty` that a workgroup multiplies with a row of activations.
    pub(crate) fn tile(self, lanes: Lanes, ty: WeightType) -> u32 {
        match lanes {
            Lanes::Units => 8 * self.rows(),
            Lanes::Rows => lanes.tile(ty),
        }
    }
}

/// What becomes of activations before they are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input {
    /// Nothing.
    Plain,
    /// They are normed, with the bits of [`RmsNorm`](crate::kernels::elementwise::rms_norm::RmsNorm).
    Normed,
}

impl Input {
    /// Fills the slot `input`.
    pub(super) fn fill(self, source: Source, lanes: Lanes) -> Source {
        match (self, lanes) {
            (Self::Plain, _) => source.with(wgsl!("input/plain.wgsl")),
            (Self::Normed, Lanes::Units) => {
                source.with(wgsl!("input/normed.wgsl")).with(wgsl!("input/norm_memory.wgsl"))
            }
            (Self::Normed, Lanes::Rows) => {
                source.with(wgsl!("input/normed.wgsl")).with(wgsl!("input/norm_shuffles.wgsl"))
            }
        }
    }
}
