// linear/gemv_columns with weight rows in lanes: a workgroup of 8 multiplies 64 weight rows, 8 an invocation, with a tile of
// TILE_M = 4 or 8 rows of activations, the columns; each sum is linear/gemv_rows'. A unit of weights is decoded once for
// all columns, a column's activations are loaded once for all rows.

// Where a row of activations starts in `x`. A column that the tile does not have is computed as the last, and not stored.
fn input(row: u32, last: u32) -> u32 {
    return (p.x_offset >> 2u) + tile_input(min(row, last)) * (p.k >> 2u);
}

// Stores the outputs of eight weight rows from row `row` on.
fn finish(column: u32, last: u32, row: u32, front: vec4<f32>, back: vec4<f32>) {
    if column <= last {
        let out_row = tile_output(column) * p.y_stride + p.y_offset;
        put_four(out_row, row, front);
        put_four(out_row, row + 4u, back);
    }
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let first_row = tile_first(tile.y);
    let end = tile_end(tile.y);
    if first_row >= end {
        return;
    }
    let last = end - 1u;
    let input0 = input(first_row, last);
    let input1 = input(first_row + 1u, last);
    let input2 = input(first_row + 2u, last);
    let input3 = input(first_row + 3u, last);
    let input4 = input(first_row + 4u, last);
    let input5 = input(first_row + 5u, last);
    let input6 = input(first_row + 6u, last);
    let input7 = input(first_row + 7u, last);
    let row = (tile.x * WG + invocation) * 8u;
    let front_units = lane_rows(tile_first_weight(tile.y), row);
    let back_units = lane_rows(tile_first_weight(tile.y), row + 4u);
    // A vec4 is four weight rows of a column.
    var front0 = vec4<f32>(0.0);
    var front1 = vec4<f32>(0.0);
    var front2 = vec4<f32>(0.0);
    var front3 = vec4<f32>(0.0);
    var front4 = vec4<f32>(0.0);
    var front5 = vec4<f32>(0.0);
    var front6 = vec4<f32>(0.0);
    var front7 = vec4<f32>(0.0);
    var back0 = vec4<f32>(0.0);
    var back1 = vec4<f32>(0.0);
    var back2 = vec4<f32>(0.0);
    var back3 = vec4<f32>(0.0);
    var back4 = vec4<f32>(0.0);
    var back5 = vec4<f32>(0.0);
    var back6 = vec4<f32>(0.0);
    var back7 = vec4<f32>(0.0);
    for (var block = grid_zero(workgroup); block < p.row_units; block += BLOCK_UNITS) {
        let front = front_units + block;
        let back = back_units + block;
        let front_heads = lane_heads(front);
        let back_heads = lane_heads(back);
        for (var l = 0u; l < BLOCK_UNITS; l += 1u) {
            let a = q_unit_of(front_heads[0], front.x, l, p.units);
            let b = q_unit_of(front_heads[1], front.y, l, p.units);
            let c = q_unit_of(front_heads[2], front.z, l, p.units);
            let d = q_unit_of(front_heads[3], front.w, l, p.units);
            let e = q_unit_of(back_heads[0], back.x, l, p.units);
            let f = q_unit_of(back_heads[1], back.y, l, p.units);
            let g = q_unit_of(back_heads[2], back.z, l, p.units);
            let h = q_unit_of(back_heads[3], back.w, l, p.units);
            let x0 = in_unit(input0, block + l);
            front0 += lane_products(a, b, c, d, x0);
            back0 += lane_products(e, f, g, h, x0);
            let x1 = in_unit(input1, block + l);
            front1 += lane_products(a, b, c, d, x1);
            back1 += lane_products(e, f, g, h, x1);
            let x2 = in_unit(input2, block + l);
            front2 += lane_products(a, b, c, d, x2);
            back2 += lane_products(e, f, g, h, x2);
            let x3 = in_unit(input3, block + l);
            front3 += lane_products(a, b, c, d, x3);
            back3 += lane_products(e, f, g, h, x3);
            if TILE_M > 4u {
                let x4 = in_unit(input4, block + l);
                front4 += lane_products(a, b, c, d, x4);
                back4 += lane_products(e, f, g, h, x4);
                let x5 = in_unit(input5, block + l);
                front5 += lane_products(a, b, c, d, x5);
                back5 += lane_products(e, f, g, h, x5);
                let x6 = in_unit(input6, block + l);
                front6 += lane_products(a, b, c, d, x6);
                back6 += lane_products(e, f, g, h, x6);
                let x7 = in_unit(input7, block + l);
                front7 += lane_products(a, b, c, d, x7);
                back7 += lane_products(e, f, g, h, x7);
            }
        }
    }
    finish(first_row, last, row, front0, back0);
    finish(first_row + 1u, last, row, front1, back1);
    finish(first_row + 2u, last, row, front2, back2);
    finish(first_row + 3u, last, row, front3, back3);
    if TILE_M > 4u {
        finish(first_row + 4u, last, row, front4, back4);
        finish(first_row + 5u, last, row, front5, back5);
        finish(first_row + 6u, last, row, front6, back6);
        finish(first_row + 7u, last, row, front7, back7);
    }
}
