// linear/gemv with weight rows in lanes: a workgroup of 8 multiplies LANE_ROWS = 4 or 8 an invocation, unit after unit along
// k. What a block's units share is decoded once, and a unit's activations are loaded once for all rows.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    if !row_is_here(tile.y) {
        return;
    }
    let input_row = (p.x_offset >> 2u) + row_input(tile.y) * (p.k >> 2u);
    in_ready(input_row, invocation);
    let row = (tile.x * WG + invocation) * LANE_ROWS;
    let front_units = lane_rows(row_first_weight(tile.y), row);
    let back_units = lane_rows(row_first_weight(tile.y), row + 4u);
    var front_sum = vec4<f32>(0.0);
    var back_sum = vec4<f32>(0.0);
    for (var block = grid_zero(workgroup); block < p.row_units; block += BLOCK_UNITS) {
        let front = front_units + block;
        let back = back_units + block;
        let front_heads = lane_heads(front);
        let back_heads = lane_heads(back);
        for (var l = 0u; l < BLOCK_UNITS; l += 1u) {
            let input = in_unit(input_row, block + l);
            front_sum += lane_unit(front_heads, front, l, input);
            if LANE_ROWS > 4u {
                back_sum += lane_unit(back_heads, back, l, input);
            }
        }
    }
    let out_row = tile.y * p.y_stride + p.y_offset;
    put_four(out_row, row, front_sum);
    if LANE_ROWS > 4u {
        put_four(out_row, row + 4u, back_sum);
    }
}
