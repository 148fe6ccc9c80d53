//! What a device can do, as plain data: kernels choose their variants from it, and tests make their own.

/// Capabilities and limits of a device, as far as kernels care.
///
/// Bytes are bytes; counts are per dispatch or per shader stage as WebGPU defines them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caps {
    /// `pack2x16float` and `unpack2x16float` work, so that an f16 KV cache can be kept without the f16 type.
    pub pack_f16: bool,
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

impl Caps {
    /// What every WebGPU device has: default limits, no optional feature.
    pub fn portable() -> Self {
        Self::from_limits(&wgpu::Limits::default(), true)
    }

    /// The largest buffer that a kernel can bind whole, in bytes.
    pub fn buffer_limit(&self) -> u64 {
        self.max_binding_bytes.min(self.max_buffer_bytes)
    }

    /// The capabilities of a device made with `limits`.
    pub(crate) fn from_limits(limits: &wgpu::Limits, pack_f16: bool) -> Self {
        Self {
            pack_f16,
            max_storage_buffers: limits.max_storage_buffers_per_shader_stage,
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            max_buffer_bytes: limits.max_buffer_size,
            max_workgroup_invocations: limits.max_compute_invocations_per_workgroup,
            max_workgroup_bytes: limits.max_compute_workgroup_storage_size,
            max_workgroups_per_dimension: limits.max_compute_workgroups_per_dimension,
            uniform_alignment: limits.min_uniform_buffer_offset_alignment,
        }
    }
}
