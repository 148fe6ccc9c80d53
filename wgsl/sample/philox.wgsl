// numbers[i] = philox(counters[i], keys[i]).
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let i = grid_id(workgroup).x * WG + invocation;
    if i < p.n {
        numbers[i] = philox(counters[i], keys[i]);
    }
}
