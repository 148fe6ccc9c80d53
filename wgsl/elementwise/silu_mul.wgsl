// gate = silu(gate) * up, element by element.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let i = grid_id(workgroup).x * WG + invocation;
    if i < p.n {
        gate[i] = silu(gate[i]) * up[i];
    }
}
