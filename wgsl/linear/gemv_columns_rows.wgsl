// linear/gemv_columns with a weight row in each lane: a workgroup of 8 multiplies 32 weight rows, 4 an invocation, with a
// tile of TILE_M = 4 rows of activations, the columns; each sum is linear/gemv_rows'.

// One weight row's unit times the four columns.
fn products(u: QUnit, x0: QInput, x1: QInput, x2: QInput, x3: QInput) -> vec4<f32> {
    return vec4<f32>(q_product(u, x0), q_product(u, x1), q_product(u, x2), q_product(u, x3));
}

// Where a row of activations starts in `x`.
fn input(row: u32) -> u32 {
    return (p.x_offset >> 2u) + tile_input(row) * (p.k >> 2u);
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let first_row = tile_first(tile.y);
    let end = tile_end(tile.y);
    if first_row >= end {
        return;
    }
    // A column that the tile does not have is computed as the last, and not stored.
    let last = end - 1u;
    let input0 = input(first_row);
    let input1 = input(min(first_row + 1u, last));
    let input2 = input(min(first_row + 2u, last));
    let input3 = input(min(first_row + 3u, last));
    let row = (tile.x * WG + invocation) * 4u;
    let units = lane_rows(tile_first_weight(tile.y), row);
    // A vec4 is the columns of one weight row.
    var sum0 = vec4<f32>(0.0);
    var sum1 = vec4<f32>(0.0);
    var sum2 = vec4<f32>(0.0);
    var sum3 = vec4<f32>(0.0);
    for (var block = grid_zero(workgroup); block < p.row_units; block += BLOCK_UNITS) {
        let firsts = units + block;
        let heads = lane_heads(firsts);
        for (var l = 0u; l < BLOCK_UNITS; l += 1u) {
            let x0 = in_unit(input0, block + l);
            let x1 = in_unit(input1, block + l);
            let x2 = in_unit(input2, block + l);
            let x3 = in_unit(input3, block + l);
            sum0 += products(q_unit_of(heads[0], firsts.x, l, p.units), x0, x1, x2, x3);
            sum1 += products(q_unit_of(heads[1], firsts.y, l, p.units), x0, x1, x2, x3);
            sum2 += products(q_unit_of(heads[2], firsts.z, l, p.units), x0, x1, x2, x3);
            sum3 += products(q_unit_of(heads[3], firsts.w, l, p.units), x0, x1, x2, x3);
        }
    }
    put_four(out_row(first_row), row, vec4<f32>(sum0.x, sum1.x, sum2.x, sum3.x));
    if first_row < last {
        put_four(out_row(first_row + 1u), row, vec4<f32>(sum0.y, sum1.y, sum2.y, sum3.y));
    }
    if first_row + 1u < last {
        put_four(out_row(first_row + 2u), row, vec4<f32>(sum0.z, sum1.z, sum2.z, sum3.z));
    }
    if first_row + 2u < last {
        put_four(out_row(first_row + 3u), row, vec4<f32>(sum0.w, sum1.w, sum2.w, sum3.w));
    }
}

fn out_row(row: u32) -> u32 {
    return tile_output(row) * p.y_stride + p.y_offset;
}
