//! What a device can do, as plain data: kernels choose their variants from it, and tests make their own.

/// Capabilities and limits of a device, as far as kernels care.
///
/// Bytes are bytes; counts are per dispatch or per shader stage as WebGPU defines them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// `pack2x16float` and `unpack2x16float` work, so that an f16 KV cache can be kept without the f16 type.
    pub pack_f16: bool,
    /// Shaders may have WGSL's type `f16`.
    pub f16: bool,
    /// Subgroup operations work. A shader must not assume a subgroup's size.
    pub subgroups: bool,
    /// A workgroup of eight invocations is within one subgroup.
    pub min_subgroup_8: bool,
    /// Cooperative matrices that subgroups multiply. Where there are any, a subgroup has 32 invocations at most.
    pub matrices: Matrices,
    /// The device can time compute passes ([`Program::profile`](super::Program::profile)).
    pub timestamps: bool,
    /// Storage buffers a shader may bind.
    pub max_storage_buffers: u32,
    /// Largest storage binding, in bytes.
    pub max_binding_bytes: u64,
    /// Largest buffer, in bytes.
    pub max_buffer_bytes: u64,
    /// Largest number of invocations of a workgroup.
    pub max_workgroup_invocations: u32,
    /// Workgroup memory, in bytes.
    pub max_workgroup_bytes: u32,
    /// Largest number of workgroups of a dispatch along one axis.
    pub max_workgroups_per_dimension: u32,
    /// Alignment of a dynamic offset into a uniform buffer, in bytes.
    pub uniform_alignment: u32,
}

/// Square cooperative matrices, by what is multiplied and their size; their products are added in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Matrices {
    /// f32, 8 by 8.
    pub f32_8: bool,
    /// Halves, 8 by 8.
    pub f16_8: bool,
    /// Halves, 16 by 16.
    pub f16_16: bool,
}

impl Matrices {
    /// Whether there are any.
    pub fn any(self) -> bool {
        self != Self::default()
    }

    /// What both have.
    pub fn and(self, other: Self) -> Self {
        Self { f32_8: self.f32_8 && other.f32_8, f16_8: self.f16_8 && other.f16_8, f16_16: self.f16_16 && other.f16_16 }
    }

    /// Those that an adapter lists.
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
    /// What every WebGPU device has: default limits, no optional feature.
    pub fn portable() -> Self {
        Self::from_limits(&wgpu::Limits::default(), true, false)
    }

    /// What both have: a device made with it can do no more than either.
    pub fn and(&self, other: &Self) -> Self {
        Self {
            pack_f16: self.pack_f16 && other.pack_f16,
            f16: self.f16 && other.f16,
            subgroups: self.subgroups && other.subgroups,
            min_subgroup_8: self.min_subgroup_8 && other.min_subgroup_8,
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

    /// The features that a device needs for it.
    pub(crate) fn features(&self) -> wgpu::Features {
        let mut features = wgpu::Features::empty();
        features.set(wgpu::Features::SHADER_F16, self.f16);
        features.set(wgpu::Features::SUBGROUP, self.subgroups);
        features.set(wgpu::Features::TIMESTAMP_QUERY, self.timestamps);
        features
    }

    /// The limits to ask for: WebGPU's defaults where `adapter` has them, and in what kernels use no more than these.
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

    /// The largest buffer that a kernel can bind whole, in bytes.
    pub fn buffer_limit(&self) -> u64 {
        self.max_binding_bytes.min(self.max_buffer_bytes)
    }

    /// The capabilities of a device made with `limits`, without the type f16, wide subgroups, matrices and timestamps.
    pub(crate) fn from_limits(limits: &wgpu::Limits, pack_f16: bool, subgroups: bool) -> Self {
        Self {
            pack_f16,
            f16: false,
            subgroups,
            min_subgroup_8: false,
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
