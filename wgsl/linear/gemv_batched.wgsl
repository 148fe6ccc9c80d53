// GEMV for a few rows at once: a workgroup multiplies 64 weight rows by a batch of TILE_M = 4 rows of activations. The 8
// lanes of a group of 8 weight rows split K. A block of weights is decoded once for the batch, and a block of activations is
// loaded once for the 8 weight rows.
const ROWS_PER_GROUP = 8u;
const TILE_N = 64u;
const BATCH = TILE_M;

// Returns the products of a block of one weight row with the batch.
fn products(block: u32, x0: QInput, x1: QInput, x2: QInput, x3: QInput) -> vec4<f32> {
    let u = q_block32(block, p.n_blocks);
    return vec4<f32>(q_product(u, x0), q_product(u, x1), q_product(u, x2), q_product(u, x3));
}

fn store_partials(row: u32, lane: u32, sum: vec4<f32>) {
    let at = (row * LANES + lane) * BATCH;
    partials[at] = sum.x;
    partials[at + 1u] = sum.y;
    partials[at + 2u] = sum.z;
    partials[at + 3u] = sum.w;
}

// Returns where a row of activations starts in `x`.
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
    let batch = min(end - first_row, BATCH);
    let input0 = input(first_row);
    let input1 = input(min(first_row + 1u, end - 1u));
    let input2 = input(min(first_row + 2u, end - 1u));
    let input3 = input(min(first_row + 3u, end - 1u));
    let lane = invocation % LANES;
    let group_row = (invocation / LANES) * ROWS_PER_GROUP;
    let first = tile_first_weight(tile.y);
    let row = tile.x * TILE_N + group_row;
    let last = p.weight_rows - 1u;
    let block0 = (first + min(row, last)) * p.k_blocks;
    let block1 = (first + min(row + 1u, last)) * p.k_blocks;
    let block2 = (first + min(row + 2u, last)) * p.k_blocks;
    let block3 = (first + min(row + 3u, last)) * p.k_blocks;
    let block4 = (first + min(row + 4u, last)) * p.k_blocks;
    let block5 = (first + min(row + 5u, last)) * p.k_blocks;
    let block6 = (first + min(row + 6u, last)) * p.k_blocks;
    let block7 = (first + min(row + 7u, last)) * p.k_blocks;
    // A vec4 holds the sums of one weight row with the batch.
    var sum0 = vec4<f32>(0.0);
    var sum1 = vec4<f32>(0.0);
    var sum2 = vec4<f32>(0.0);
    var sum3 = vec4<f32>(0.0);
    var sum4 = vec4<f32>(0.0);
    var sum5 = vec4<f32>(0.0);
    var sum6 = vec4<f32>(0.0);
    var sum7 = vec4<f32>(0.0);
    for (var block = lane; block < p.k_blocks; block += LANES) {
        // A row beyond the tile repeats the first one and is not stored.
        let x0 = in_block32(input0, block);
        var x1 = x0;
        var x2 = x0;
        var x3 = x0;
        if batch > 1u {
            x1 = in_block32(input1, block);
        }
        if batch > 2u {
            x2 = in_block32(input2, block);
        }
        if batch > 3u {
            x3 = in_block32(input3, block);
        }
        sum0 += products(block0 + block, x0, x1, x2, x3);
        sum1 += products(block1 + block, x0, x1, x2, x3);
        sum2 += products(block2 + block, x0, x1, x2, x3);
        sum3 += products(block3 + block, x0, x1, x2, x3);
        sum4 += products(block4 + block, x0, x1, x2, x3);
        sum5 += products(block5 + block, x0, x1, x2, x3);
        sum6 += products(block6 + block, x0, x1, x2, x3);
        sum7 += products(block7 + block, x0, x1, x2, x3);
    }
    store_partials(group_row, lane, sum0);
    store_partials(group_row + 1u, lane, sum1);
    store_partials(group_row + 2u, lane, sum2);
    store_partials(group_row + 3u, lane, sum3);
    store_partials(group_row + 4u, lane, sum4);
    store_partials(group_row + 5u, lane, sum5);
    store_partials(group_row + 6u, lane, sum6);
    store_partials(group_row + 7u, lane, sum7);
    workgroupBarrier();
    for (var column = 0u; column < batch; column += 1u) {
        let out_row = tile_output(first_row + column) * p.y_stride + p.y_offset;
        for (var i = invocation; i < TILE_N; i += WG) {
            reduce_and_store(tile.x, i, column, out_row);
        }
    }
}
