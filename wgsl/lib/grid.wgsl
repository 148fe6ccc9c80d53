// The logical workgroup of a grid whose x axis may be folded over z (see `Grid` in src/gpu/kernel.rs).
fn grid_id(workgroup: vec3<u32>) -> vec2<u32> {
    return vec2<u32>(workgroup.x + workgroup.z * 32768u, workgroup.y);
}

// Zero, as compilers do not know: where a loop begins whose end is a parameter. Mesa's lavapipe otherwise compiles such a
// loop again for the parameter's value, in every dispatch.
fn grid_zero(workgroup: vec3<u32>) -> u32 {
    return workgroup.z >> 31u;
}
