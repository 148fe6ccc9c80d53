// y[a] += the bias of the expert of assignment a.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let i = tile.x * WG + invocation;
    if i < p.n {
        // Clamped, because it comes from data.
        let expert = min(ids[tile.y], p.experts - 1u);
        y[tile.y * p.n + i] += bias[expert * p.n + i];
    }
}
