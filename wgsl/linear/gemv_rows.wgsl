// linear/gemv with weight rows in lanes: a workgroup of 8 multiplies LANE_ROWS = 4 or 8 an invocation.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    if !row_is_here(tile.y) {
        return;
    }
    let input_row = (p.x_offset >> 2u) + row_input(tile.y) * (p.k >> 2u);
    in_ready(input_row, invocation);
    let row = (tile.x * WG + invocation) * LANE_ROWS;
    let sums = lane_sums(row_first_weight(tile.y), row, input_row, grid_zero(workgroup));
    lane_put(tile.y * p.y_stride + p.y_offset, row, sums);
}
