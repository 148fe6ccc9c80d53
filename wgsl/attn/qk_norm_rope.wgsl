// Transposes token-major heads to head-major ones, with norm and RoPE by the slot `head`. A workgroup has a head of a
// token.
fn head_input(row: u32, head: u32, i: u32) -> f32 {
    return x[(row * p.heads + head) * p.head_dim + i];
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    head_ready(tile.y, tile.x, 0u, invocation);
    for (var i = invocation; i < p.head_dim; i += WG) {
        y[(tile.x * p.rows + tile.y) * p.head_dim + i] = head_values[i];
    }
}
