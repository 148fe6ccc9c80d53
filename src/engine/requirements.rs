//! The requirements of an engine on an application's device.

use super::{Engine, EngineError, EngineOptions};
use crate::{
    gguf::Gguf,
    gpu::{Adapter, Caps, GpuError, Requirements},
    model::MemoryPlan,
};

impl Engine {
    /// Returns the features and limits that a device of `adapter` needs for an engine for `gguf`: those that kernels can use,
    /// bindings for the largest buffer (at least WebGPU's defaults), and timestamps if stages are to be timed.
    /// [`Device::from_wgpu`](crate::gpu::Device::from_wgpu) takes a device created with them.
    ///
    /// Matrices that the adapter cannot bind as a whole are split; all else must fit.
    ///
    /// # Errors
    /// Those of [`Engine::memory`]; [`EngineError::KvType`]; [`GpuError::TooLarge`] for a buffer that does not fit.
    pub fn requirements(adapter: &Adapter, gguf: &Gguf, options: &EngineOptions) -> Result<Requirements, EngineError> {
        let caps = adapter.caps();
        let plan = Self::memory(gguf, options, options.kv_type_on(adapter.name(), &caps)?)?;
        Ok(adapter.requirements(&needed(&caps, &plan, options.profile)?))
    }
}

/// Returns what a device needs of the capabilities of its adapter.
fn needed(adapter: &Caps, plan: &MemoryPlan, profile: bool) -> Result<Caps, GpuError> {
    let ((label, bytes), limit) = (plan.largest.clone(), adapter.buffer_limit());
    if bytes > limit {
        return Err(GpuError::TooLarge { label, bytes, limit });
    }
    let defaults = Caps::portable();
    Ok(Caps {
        timestamps: adapter.timestamps && profile,
        max_binding_bytes: adapter.max_binding_bytes.min(plan.largest_whole.max(defaults.max_binding_bytes)),
        max_buffer_bytes: adapter.max_buffer_bytes.min(plan.largest_whole.max(defaults.max_buffer_bytes)),
        ..adapter.clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn bindings_are_as_large_as_the_model_needs_and_the_adapter_has() {
        let has = |max_binding_bytes| Caps {
            timestamps: true,
            max_binding_bytes,
            max_buffer_bytes: 1024 * MIB,
            ..Caps::portable()
        };
        let plan = |piece, largest_whole| MemoryPlan {
            largest: ("a piece".to_owned(), piece),
            largest_whole,
            ..MemoryPlan::default()
        };
        let needs = |binding, piece, whole| {
            let caps = needed(&has(binding), &plan(piece, whole), false).expect("it fits");
            assert!(!caps.timestamps);
            (caps.max_binding_bytes, caps.max_buffer_bytes)
        };
        // WebGPU's defaults are enough for a small model.
        assert_eq!(needs(1024 * MIB, MIB, 2 * MIB), (128 * MIB, 256 * MIB));
        // The largest matrix is bound whole.
        assert_eq!(needs(1024 * MIB, MIB, 243 * MIB + 16), (243 * MIB + 16, 256 * MIB));
        assert_eq!(needs(1024 * MIB, MIB, 500 * MIB), (500 * MIB, 500 * MIB));
        // It is split.
        assert_eq!(needs(200 * MIB, MIB, 243 * MIB), (200 * MIB, 256 * MIB));
        let error = needed(&has(200 * MIB), &plan(201 * MIB, 243 * MIB), false);
        assert!(matches!(error, Err(GpuError::TooLarge { bytes, .. }) if bytes == 201 * MIB));
        assert!(needed(&has(128 * MIB), &plan(1, 1), true).expect("it fits").timestamps);
    }
}
