// linear/gemv_sum with weight rows in lanes, as linear/gemv_rows has them.
fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let zero = grid_zero(workgroup);
    let row = (tile.x * WG + invocation) * LANE_ROWS;
    let pair = tile.y * p.share;
    var total = LaneSums(vec4<f32>(0.0), vec4<f32>(0.0));
    for (var slot = zero; slot < p.share; slot += 1u) {
        let first = min(ids[pair + slot], p.experts - 1u) * p.n;
        let sums = lane_sums(first, row, (pair + slot) * (p.k >> 2u), zero);
        let weight = weights[pair + slot];
        total.front += weight * sums.front;
        total.back += weight * sums.back;
    }
    lane_put(tile.y * p.n, row, total);
}
