// linear/gemv_sum with a weight row in each lane, as linear/gemv_rows has them.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let row = (tile.x * WG + invocation) * 4u;
    let pair = tile.y * p.share;
    var total = vec4<f32>(0.0);
    for (var slot = grid_zero(workgroup); slot < p.share; slot += 1u) {
        let units = lane_rows(min(ids[pair + slot], p.experts - 1u) * p.n, row);
        let input_row = (pair + slot) * (p.k >> 2u);
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
        total += weights[pair + slot] * sum;
    }
    put_four(tile.y * p.n, row, total);
}
