// residual[t] += sum over the token's experts, in order, of their weight times their output.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    if i < p.n {
        let pair = tile.y * p.k;
        var sum = 0.0;
        for (var slot = 0u; slot < p.k; slot += 1u) {
            sum += weights[pair + slot] * outputs[(pair + slot) * p.n + i];
        }
        residual[tile.y * p.n + i] += sum;
    }
}
