//! Bindings, grids and reduction orders of kernels, as data.

/// The access of a kernel to a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only.
    Read,
    /// Written, and possibly read.
    Write,
}

/// A storage binding of a kernel variant.
#[derive(Clone, Copy, Debug)]
pub struct Binding {
    /// Its name in WGSL and in Rust.
    pub name: &'static str,
    /// The access to it.
    pub access: Access,
    /// The WGSL type of its elements.
    pub element: &'static str,
    /// Whether the variant has it.
    pub present: bool,
}

/// A logical grid of workgroups. `x` may exceed a device's limit: it is folded over `z`, and `grid_id` of
/// `wgsl/lib/grid.wgsl` unfolds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Workgroups along x.
    pub x: u32,
    /// Workgroups along y.
    pub y: u32,
}

impl Grid {
    /// The workgroups of a folded row: the constant of `wgsl/lib/grid.wgsl`.
    pub const FOLD: u32 = 32_768;

    /// Returns the folded grid `[x, y, z]`; `None` if it exceeds `max` along an axis.
    pub fn workgroups(self, max: u32) -> Option<[u32; 3]> {
        let folded = if self.x <= max.min(Self::FOLD) {
            [self.x, self.y, 1]
        } else {
            [Self::FOLD, self.y, self.x.div_ceil(Self::FOLD)]
        };
        folded.iter().all(|n| *n <= max).then_some(folded)
    }
}

/// A binding that a dispatch reads only in part, depending on data: for estimates of memory traffic. A stack of matrices that
/// is bound in parts is assumed to be read evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SparseReads {
    /// The binding's name.
    pub binding: &'static str,
    /// The unit that data choose.
    pub choice: SparseUnit,
    /// The maximum number of units read.
    pub most: u32,
    /// The number of units in all parts.
    pub of: u32,
}

/// A unit of data-dependent reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SparseUnit {
    /// A row of a table, chosen by a token.
    Rows,
    /// A matrix of a stack, chosen by an expert's id.
    Experts,
}

/// Returns the product of counts, saturating.
pub(crate) fn times<const N: usize>(counts: [u32; N]) -> u64 {
    counts.into_iter().fold(1, |product: u64, count| product.saturating_mul(count.into()))
}

/// The order in which a kernel variant sums. On one adapter, variants of the same order give the same bits for the same row,
/// whatever other rows, tiles or chunks are computed with it. tests/it/order.rs compares variants that share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ReductionOrder {
    name: &'static str,
    subgroups: bool,
}

impl ReductionOrder {
    /// Creates the order called `name`, without subgroups.
    pub const fn new(name: &'static str) -> Self {
        Self { name, subgroups: false }
    }

    /// Sets whether subgroups compute partial sums.
    pub const fn subgroups(self, used: bool) -> Self {
        Self { subgroups: used, ..self }
    }

    /// Returns its name: by default that of the kernel.
    pub const fn name(self) -> &'static str {
        self.name
    }

    /// Returns whether subgroups compute partial sums, so that the order depends on the subgroup size.
    pub const fn by_subgroups(self) -> bool {
        self.subgroups
    }
}
