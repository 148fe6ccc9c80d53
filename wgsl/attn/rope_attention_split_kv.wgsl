// Causal attention of a token's query heads of one key head to one chunk of their keys (Flash-Decoding), from the
// token's projections. Only the workgroup of the last chunk stores the token's key and value.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let grid = grid_id(workgroup);
    let zero = opaque_zero(workgroup);
    let chunk = grid.x / p.kv_heads;
    let last = min(kv_position(grid.y) / CHUNK, p.chunks - 1u);
    if chunk > last {
        return;
    }
    let tile = attn_tile(grid.x - chunk * p.kv_heads, grid.y);
    queries_ready(tile, grid.y, chunk == last, invocation);
    split_attention(tile, chunk, zero, invocation);
}
