// Causal attention of a tile of queries, a workgroup each.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let grid = grid_id(workgroup);
    let zero = opaque_zero(workgroup);
    single_attention(attn_tile(grid.x, grid.y), zero, invocation);
}
