// gate = silu(gate) * up, element by element.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let i = grid_id(workgroup).x * WG + invocation;
    if i < p.n {
        let g = gate[i];
        // Beyond 80 the quotient is zero in f32 anyway, and the exponential would overflow.
        gate[i] = g / (1.0 + exp(min(-g, 80.0))) * up[i];
    }
}
