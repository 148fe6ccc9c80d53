// Causal attention of some query heads of some tokens to one chunk of their keys, a workgroup each. Chunks begin at
// multiples of CHUNK, so that a row's sums are the same in every batch.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let grid = grid_id(workgroup);
    let tiles = p.kv_heads * p.head_tiles;
    let chunk = grid.x / tiles;
    part_attend(scan_tile(grid.x - chunk * tiles, grid.y), chunk, grid_zero(workgroup), invocation);
}
