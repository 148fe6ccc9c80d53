// linear/gemv_sum with weight rows in lanes, as linear/gemv_rows has them.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let row = (tile.x * WG + invocation) * LANE_ROWS;
    let pair = tile.y * p.share;
    var front_total = vec4<f32>(0.0);
    var back_total = vec4<f32>(0.0);
    for (var slot = grid_zero(workgroup); slot < p.share; slot += 1u) {
        let matrix = min(ids[pair + slot], p.experts - 1u) * p.n;
        let front_units = lane_rows(matrix, row);
        let back_units = lane_rows(matrix, row + 4u);
        let input_row = (pair + slot) * (p.k >> 2u);
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
        let weight = weights[pair + slot];
        front_total += weight * front_sum;
        back_total += weight * back_sum;
    }
    put_four(tile.y * p.n, row, front_total);
    if LANE_ROWS > 4u {
        put_four(tile.y * p.n, row + 4u, back_total);
    }
}
