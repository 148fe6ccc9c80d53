// Causal attention of a token's query heads of one key head, from the token's projections. A workgroup has one key
// head.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let grid = grid_id(workgroup);
    let zero = opaque_zero(workgroup);
    let tile = attn_tile(grid.x, grid.y);
    queries_ready(tile, grid.y, true, invocation);
    single_attention(tile, zero, invocation);
}
