//! Properties of a composed shader.

use wgpu::naga::{AddressSpace, front::wgsl, proc::Layouter};

use super::Shader;

/// Returns the bytes of workgroup memory of a shader; `None` for invalid WGSL.
pub fn workgroup_bytes(shader: &Shader) -> Option<u32> {
    let module = wgsl::parse_str(&shader.text).ok()?;
    let mut layouter = Layouter::default();
    layouter.update(module.to_ctx()).ok()?;
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
    Some(shared.map(|(_, v)| layouter[v.ty].size).sum())
}
