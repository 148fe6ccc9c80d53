// Causal attention of some query heads of some tokens, a workgroup each.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let grid = grid_id(workgroup);
    whole_attend(scan_tile(grid.x, grid.y), grid_zero(workgroup), invocation);
}
