// Causal attention of a token's query heads of one key head to one chunk of their keys, a workgroup each, from the token's
// projections. The chunk that the token is in has its key and value to itself.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let grid = grid_id(workgroup);
    let chunk = grid.x / p.kv_heads;
    let newest = min(kv_position(grid.y) / CHUNK, p.chunks - 1u);
    if chunk > newest {
        return;
    }
    let tile = scan_tile(grid.x - chunk * p.kv_heads, grid.y);
    turned_ready(tile, grid.y, chunk == newest, invocation);
    part_attend(tile, chunk, grid_zero(workgroup), invocation);
}
