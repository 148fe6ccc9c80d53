// linear/gemv with the split by rows: a workgroup of 8 multiplies ROWS_PER_LANE = 4 or 8 weight rows a lane.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    if !row_is_local(tile.y) {
        return;
    }
    let input_row = (p.x_offset >> 2u) + row_input(tile.y) * (p.k >> 2u);
    in_prepare(input_row, invocation);
    let row = (tile.x * WG + invocation) * ROWS_PER_LANE;
    let sums = row_split_sums(row_first_weight(tile.y), row, input_row, opaque_zero(workgroup));
    let out_row = tile.y * p.y_stride + p.y_offset;
    store_output4(out_row, row, sums.front);
    if ROWS_PER_LANE > 4u {
        store_output4(out_row, row + 4u, sums.back);
    }
}
