// Heads of tokens to tokens of heads, a workgroup a head of a token, normed and rotated on the way where that is asked
// for.
fn head_input(row: u32, head: u32, i: u32) -> f32 {
    return x[(row * p.heads + head) * HEAD_DIM + i];
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    head_ready(tile.y, tile.x, 0u, invocation);
    for (var i = invocation; i < HEAD_DIM; i += WG) {
        y[(tile.x * p.rows + tile.y) * HEAD_DIM + i] = head_values[i];
    }
}
