// Maps a physical workgroup to its logical one: the x axis of a grid may be folded over z (`Grid` in src/gpu/kernel.rs).
fn grid_id(workgroup: vec3<u32>) -> vec2<u32> {
    return vec2<u32>(workgroup.x + workgroup.z * 32768u, workgroup.y);
}

// Returns zero, which the compiler cannot prove. Loops with a uniform bound start at it: lavapipe specialises a shader on
// the bound of a loop that starts at a constant, and recompiles it each time the bound changes.
fn opaque_zero(workgroup: vec3<u32>) -> u32 {
    return workgroup.z >> 31u;
}
