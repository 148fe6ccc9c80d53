// linear/gemv with a weight row in each lane: a workgroup of 8 multiplies 32 weight rows, 4 an invocation, unit after unit
// along k. What a block's units share is decoded once, and a unit's activations are loaded once for all rows.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    if !row_is_here(tile.y) {
        return;
    }
    let input_row = (p.x_offset >> 2u) + row_input(tile.y) * (p.k >> 2u);
    in_ready(input_row, invocation);
    let row = (tile.x * WG + invocation) * 4u;
    let units = lane_rows(row_first_weight(tile.y), row);
    var sum = vec4<f32>(0.0);
    for (var block = grid_zero(workgroup); block < p.row_units; block += BLOCK_UNITS) {
        let firsts = units + block;
        let heads = lane_heads(firsts);
        for (var l = 0u; l < BLOCK_UNITS; l += 1u) {
            let input = in_unit(input_row, block + l);
            sum += vec4<f32>(
                q_product(q_unit_of(heads[0], firsts.x, l, p.units), input),
                q_product(q_unit_of(heads[1], firsts.y, l, p.units), input),
                q_product(q_unit_of(heads[2], firsts.z, l, p.units), input),
                q_product(q_unit_of(heads[3], firsts.w, l, p.units), input),
            );
        }
    }
    put_four(tile.y * p.y_stride + p.y_offset, row, sum);
}
