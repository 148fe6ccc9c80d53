//! Device features that kernel variants need.

use crate::gpu::{Caps, Matrices};

/// A feature that a kernel variant may need beyond WebGPU's default limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Feature {
    /// Subgroup operations.
    Subgroups,
    /// Subgroups of at least eight invocations, of a software driver.
    SoftwareSubgroup8,
    /// `pack2x16float` and `unpack2x16float`, for an f16 KV cache.
    PackF16,
    /// The type `f16`.
    F16,
    /// Cooperative matrices of f32, 8 by 8.
    MatricesF32,
    /// Cooperative matrices of f16, 8 by 8.
    Matrices8,
    /// Cooperative matrices of f16, 16 by 16.
    Matrices16,
}

impl Feature {
    /// All features.
    pub const ALL: [Self; 7] = [
        Self::Subgroups,
        Self::SoftwareSubgroup8,
        Self::PackF16,
        Self::F16,
        Self::MatricesF32,
        Self::Matrices8,
        Self::Matrices16,
    ];

    /// Cooperative matrices of all kinds.
    pub const MATRICES: [Self; 3] = [Self::MatricesF32, Self::Matrices8, Self::Matrices16];

    /// Returns its name: that of the command `devices` if it has one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Subgroups => "subgroups",
            Self::SoftwareSubgroup8 => "software subgroups ≥ 8",
            Self::PackF16 => "f16-kv",
            Self::F16 => "f16",
            Self::MatricesF32 => "8x8 f32 matrices",
            Self::Matrices8 => "8x8 f16 matrices",
            Self::Matrices16 => "16x16 f16 matrices",
        }
    }

    /// Returns whether `caps` have it.
    pub fn is_in(self, caps: &Caps) -> bool {
        match self {
            Self::Subgroups => caps.subgroups,
            Self::SoftwareSubgroup8 => caps.software_subgroup_8,
            Self::PackF16 => caps.pack_f16,
            Self::F16 => caps.f16,
            Self::MatricesF32 => caps.matrices.f32_8,
            Self::Matrices8 => caps.matrices.f16_8,
            Self::Matrices16 => caps.matrices.f16_16,
        }
    }

    /// Returns WebGPU's default limits with these features and no others.
    pub fn caps(features: &[Self]) -> Caps {
        let has = |feature| features.contains(&feature);
        let subgroups = has(Self::Subgroups);
        let software_subgroup_8 = subgroups && has(Self::SoftwareSubgroup8);
        let (pack_f16, f16) = (has(Self::PackF16), has(Self::F16));
        let matrices =
            Matrices { f32_8: has(Self::MatricesF32), f16_8: has(Self::Matrices8), f16_16: has(Self::Matrices16) };
        Caps { subgroups, software_subgroup_8, pack_f16, f16, matrices, ..Caps::portable() }
    }
}
