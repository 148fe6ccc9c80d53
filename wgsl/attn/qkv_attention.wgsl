// Causal attention of a token's query heads of one key head, a workgroup each, from the token's projections.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let grid = grid_id(workgroup);
    let tile = scan_tile(grid.x, grid.y);
    turned_ready(tile, grid.y, true, invocation);
    whole_attend(tile, grid_zero(workgroup), invocation);
}
