// linear/gemv_moe_combine with the split by rows, in the order of sums of software/gemv.
fn add_output4(out_row: u32, row: u32, sums: vec4<f32>) {
    add_output(out_row, row, sums.x);
    add_output(out_row, row + 1u, sums.y);
    add_output(out_row, row + 2u, sums.z);
    add_output(out_row, row + 3u, sums.w);
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let zero = opaque_zero(workgroup);
    let row = (tile.x * WG + invocation) * ROWS_PER_LANE;
    let first_assignment = tile.y * p.top_k;
    var total = RowSums(vec4<f32>(0.0), vec4<f32>(0.0));
    for (var i = first_assignment + zero; i < first_assignment + p.top_k; i += 1u) {
        let first = min(ids[i], p.experts - 1u) * p.n;
        let sums = row_split_sums(first, row, i * (p.k >> 2u), zero);
        let weight = weights[i];
        total.front += weight * sums.front;
        total.back += weight * sums.back;
    }
    add_output4(tile.y * p.n, row, total.front);
    if ROWS_PER_LANE > 4u {
        add_output4(tile.y * p.n, row + 4u, total.back);
    }
}
