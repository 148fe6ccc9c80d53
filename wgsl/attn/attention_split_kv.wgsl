// Causal attention of a tile of queries to one chunk of their keys (Flash-Decoding), a workgroup each. Chunks begin at
// multiples of CHUNK, so a query's sums are the same in every batch.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let grid = grid_id(workgroup);
    let tiles = p.kv_heads * p.head_tiles;
    let chunk = grid.x / tiles;
    let zero = opaque_zero(workgroup);
    split_attention(attn_tile(grid.x - chunk * tiles, grid.y), chunk, zero, invocation);
}
