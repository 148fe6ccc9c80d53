// The logical workgroup of a grid whose x axis may be folded over z (see `Grid` in src/gpu/kernel.rs).
fn grid_id(workgroup: vec3<u32>) -> vec2<u32> {
    return vec2<u32>(workgroup.x + workgroup.z * 32768u, workgroup.y);
}
