//! Device capabilities as plain data, from which kernel variants are chosen.

/// The capabilities and limits of a device that kernels depend on. Counts are per dispatch or per shader stage, as in WebGPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// `pack2x16float` and `unpack2x16float`: they suffice for an f16 KV cache.
    pub pack_f16: bool,
    /// WGSL's type `f16`.
    pub f16: bool,
    /// Subgroup operations, for subgroups of any size.
    pub subgroups: bool,
    /// The driver computes on the CPU, and its subgroups have at least 8 invocations: the kernels of wgsl/software need both.
    pub software_subgroup_8: bool,
    /// Cooperative matrices, of the kinds whose kernels allow the device's subgroups: [`Matrices::in_subgroups_of`].
    pub matrices: Matrices,
    /// Timestamps of compute passes, for [`Program::profile`](super::Program::profile).
    pub timestamps: bool,
    /// Maximum number of storage buffers of a shader.
    pub max_storage_buffers: u32,
    /// Maximum size of a storage binding in bytes.
    pub max_binding_bytes: u64,
    /// Maximum size of a buffer in bytes.
    pub max_buffer_bytes: u64,
    /// Maximum number of invocations of a workgroup.
    pub max_workgroup_invocations: u32,
    /// Maximum workgroup memory in bytes.
    pub max_workgroup_bytes: u32,
    /// Maximum number of workgroups of a dispatch along one axis.
    pub max_workgroups_per_dimension: u32,
    /// Alignment of dynamic offsets into a uniform buffer in bytes.
    pub uniform_alignment: u32,
}

/// Kinds of square cooperative matrices, by element type and size. All accumulate in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Matrices {
    /// f32, 8 by 8.
    pub f32_8: bool,
    /// f16, 8 by 8.
    pub f16_8: bool,
    /// f16, 16 by 16.
    pub f16_16: bool,
}

impl Matrices {
    /// Returns whether there are any.
    pub fn any(self) -> bool {
        self != Self::default()
    }

    /// Returns the kinds that both have.
    pub fn and(self, other: Self) -> Self {
        Self { f32_8: self.f32_8 && other.f32_8, f16_8: self.f16_8 && other.f16_8, f16_16: self.f16_16 && other.f16_16 }
    }

    /// Returns the kinds whose kernels allow subgroups of up to `largest` invocations: a tile needs four subgroups, of 128
    /// invocations with matrices of 8 by 8, and of 256 with those of 16 by 16.
    pub fn in_subgroups_of(largest: u32) -> Self {
        let small = largest <= 32;
        Self { f32_8: small, f16_8: small, f16_16: largest <= 64 }
    }

    /// Returns the kinds that an adapter lists.
    pub(super) fn of(adapter: &wgpu::Adapter) -> Self {
        use wgpu::CooperativeScalarType::{F16, F32};
        let listed = adapter.cooperative_matrix_properties();
        let has = |size, factors| {
            listed.iter().any(|matrix| {
                [matrix.m_size, matrix.n_size, matrix.k_size] == [size; 3]
                    && (matrix.ab_type, matrix.cr_type) == (factors, F32)
            })
        };
        Self { f32_8: has(8, F32), f16_8: has(8, F16), f16_16: has(16, F16) }
    }
}

impl Caps {
    /// Returns the capabilities of every WebGPU device: default limits, no optional features.
    pub fn portable() -> Self {
        Self::from_limits(&wgpu::Limits::default(), true, false)
    }

    /// Returns the capabilities that both have.
    pub fn and(&self, other: &Self) -> Self {
        Self {
            pack_f16: self.pack_f16 && other.pack_f16,
            f16: self.f16 && other.f16,
            subgroups: self.subgroups && other.subgroups,
            software_subgroup_8: self.software_subgroup_8 && other.software_subgroup_8,
            matrices: self.matrices.and(other.matrices),
            timestamps: self.timestamps && other.timestamps,
            max_storage_buffers: self.max_storage_buffers.min(other.max_storage_buffers),
            max_binding_bytes: self.max_binding_bytes.min(other.max_binding_bytes),
            max_buffer_bytes: self.max_buffer_bytes.min(other.max_buffer_bytes),
            max_workgroup_invocations: self.max_workgroup_invocations.min(other.max_workgroup_invocations),
            max_workgroup_bytes: self.max_workgroup_bytes.min(other.max_workgroup_bytes),
            max_workgroups_per_dimension: self.max_workgroups_per_dimension.min(other.max_workgroups_per_dimension),
            uniform_alignment: self.uniform_alignment.max(other.uniform_alignment),
        }
    }

    /// Returns the wgpu features that a device needs for them.
    pub(crate) fn features(&self) -> wgpu::Features {
        let mut features = wgpu::Features::empty();
        features.set(wgpu::Features::SHADER_F16, self.f16);
        features.set(wgpu::Features::SUBGROUP, self.subgroups);
        features.set(wgpu::Features::TIMESTAMP_QUERY, self.timestamps);
        features
    }

    /// Returns the wgpu limits that a device needs for them. The others are WebGPU's defaults, if `adapter` has them.
    pub(crate) fn limits(&self, adapter: &wgpu::Limits) -> wgpu::Limits {
        let defaults = wgpu::Limits::default();
        let base = if defaults.check_limits(adapter) { defaults } else { adapter.clone() };
        let invocations = self.max_workgroup_invocations;
        wgpu::Limits {
            max_storage_buffers_per_shader_stage: self.max_storage_buffers,
            max_storage_buffer_binding_size: self.max_binding_bytes,
            max_buffer_size: self.max_buffer_bytes,
            max_compute_invocations_per_workgroup: invocations,
            max_compute_workgroup_size_x: invocations.min(adapter.max_compute_workgroup_size_x),
            max_compute_workgroup_storage_size: self.max_workgroup_bytes,
            max_compute_workgroups_per_dimension: self.max_workgroups_per_dimension,
            min_uniform_buffer_offset_alignment: self.uniform_alignment,
            ..base
        }
    }

    /// Returns the maximum size in bytes of a buffer that a kernel can bind.
    pub fn buffer_limit(&self) -> u64 {
        self.max_binding_bytes.min(self.max_buffer_bytes)
    }

    /// Returns the capabilities of a device with `limits`, without f16, a minimum subgroup size, matrices and timestamps.
    pub(crate) fn from_limits(limits: &wgpu::Limits, pack_f16: bool, subgroups: bool) -> Self {
        Self {
            pack_f16,
            f16: false,
            subgroups,
            software_subgroup_8: false,
            matrices: Matrices::default(),
            timestamps: false,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            max_workgroup_invocations: limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x),
            max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
            max_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            uniform_alignment: limits.min_uniform_buffer_offset_alignment,
        }
    }
}
