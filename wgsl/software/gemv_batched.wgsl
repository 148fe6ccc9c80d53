// linear/gemv_batched with the split by rows: a workgroup of 8 multiplies 64 weight rows, 8 a lane, by a batch of
// TILE_M = 4 or 8 rows of activations. Each sum has the order of software/gemv. A block of weights is decoded once for the
// batch, and a block of activations is loaded once for all weight rows.

// Returns where a row of activations starts in `x`. A row beyond the tile repeats the last one and is not stored.
fn input(row: u32, last: u32) -> u32 {
    return (p.x_offset >> 2u) + tile_input(min(row, last)) * (p.k >> 2u);
}

// Stores the outputs of eight weight rows from row `row` on.
fn finish(batch_row: u32, last: u32, row: u32, front: vec4<f32>, back: vec4<f32>) {
    if batch_row <= last {
        let out_row = tile_output(batch_row) * p.y_stride + p.y_offset;
        store_output4(out_row, row, front);
        store_output4(out_row, row + 4u, back);
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
    let zero = opaque_zero(workgroup);
    let input0 = input(first_row, last);
    let input1 = input(first_row + 1u, last);
    let input2 = input(first_row + 2u, last);
    let input3 = input(first_row + 3u, last);
    let input4 = input(first_row + 4u, last);
    let input5 = input(first_row + 5u, last);
    let input6 = input(first_row + 6u, last);
    let input7 = input(first_row + 7u, last);
    let row = (tile.x * WG + invocation) * 8u;
    let front_blocks = row_split_blocks(tile_first_weight(tile.y), row);
    let back_blocks = row_split_blocks(tile_first_weight(tile.y), row + 4u);
    // A vec4 holds the sums of four weight rows with one row of activations.
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
    for (var block = zero; block < p.k_blocks; block += SUPER_BLOCK) {
        let front = front_blocks + block;
        let back = back_blocks + block;
        let front_headers = row_split_headers(front);
        let back_headers = row_split_headers(back);
        for (var l = 0u; l < SUPER_BLOCK; l += 1u) {
            let a = q_sub_block(front_headers[0], front.x, l, p.n_blocks);
            let b = q_sub_block(front_headers[1], front.y, l, p.n_blocks);
            let c = q_sub_block(front_headers[2], front.z, l, p.n_blocks);
            let d = q_sub_block(front_headers[3], front.w, l, p.n_blocks);
            let e = q_sub_block(back_headers[0], back.x, l, p.n_blocks);
            let f = q_sub_block(back_headers[1], back.y, l, p.n_blocks);
            let g = q_sub_block(back_headers[2], back.z, l, p.n_blocks);
            let h = q_sub_block(back_headers[3], back.w, l, p.n_blocks);
            let x0 = in_block32(input0, block + l);
            front0 += row_split_products(a, b, c, d, x0);
            back0 += row_split_products(e, f, g, h, x0);
            let x1 = in_block32(input1, block + l);
            front1 += row_split_products(a, b, c, d, x1);
            back1 += row_split_products(e, f, g, h, x1);
            let x2 = in_block32(input2, block + l);
            front2 += row_split_products(a, b, c, d, x2);
            back2 += row_split_products(e, f, g, h, x2);
            let x3 = in_block32(input3, block + l);
            front3 += row_split_products(a, b, c, d, x3);
            back3 += row_split_products(e, f, g, h, x3);
            if TILE_M > 4u {
                let x4 = in_block32(input4, block + l);
                front4 += row_split_products(a, b, c, d, x4);
                back4 += row_split_products(e, f, g, h, x4);
                let x5 = in_block32(input5, block + l);
                front5 += row_split_products(a, b, c, d, x5);
                back5 += row_split_products(e, f, g, h, x5);
                let x6 = in_block32(input6, block + l);
                front6 += row_split_products(a, b, c, d, x6);
                back6 += row_split_products(e, f, g, h, x6);
                let x7 = in_block32(input7, block + l);
                front7 += row_split_products(a, b, c, d, x7);
                back7 += row_split_products(e, f, g, h, x7);
            }
        }
    }
    // An opaque loop: a software driver compiles the stores once.
    var fronts = array<vec4<f32>, 8>(front0, front1, front2, front3, front4, front5, front6, front7);
    var backs = array<vec4<f32>, 8>(back0, back1, back2, back3, back4, back5, back6, back7);
    for (var i = zero; i < TILE_M; i += 1u) {
        finish(first_row + i, last, row, fronts[i], backs[i]);
    }
}
