// GEMM: Y = X Wᵀ for many rows. A workgroup multiplies 64 weight rows by a tile of TILE_M = 32 or 64 rows of activations.
// Tiles of 32 along K are decoded into workgroup memory, which the slot `mma` lays out and multiplies, in the type of the slot
// `tile`. It has MMA_ROWS of the rows there at a time: where these are half of them, the decoded weights serve both halves.
const TILE_N = 64u;

// Whether an invocation decodes half a block of weights, or copies a quarter of a block of activations, rather than twice that.
const FINE = WG == 256u;

// Decodes a block of weights, or half `half` of it, into row `row` of the tile.
fn decode(block: u32, half: u32, row: u32) {
    let u = q_block32(block, p.n_blocks);
    if !FINE || half == 0u {
        mma_store_weights(row, 0u, u.q[0] * u.scale.x + vec4<f32>(u.offset.x));
        mma_store_weights(row, 1u, u.q[1] * u.scale.x + vec4<f32>(u.offset.x));
        mma_store_weights(row, 2u, u.q[2] * u.scale.x + vec4<f32>(u.offset.x));
        mma_store_weights(row, 3u, u.q[3] * u.scale.x + vec4<f32>(u.offset.x));
    }
    if !FINE || half == 1u {
        mma_store_weights(row, 4u, u.q[4] * u.scale.y + vec4<f32>(u.offset.y));
        mma_store_weights(row, 5u, u.q[5] * u.scale.y + vec4<f32>(u.offset.y));
        mma_store_weights(row, 6u, u.q[6] * u.scale.y + vec4<f32>(u.offset.y));
        mma_store_weights(row, 7u, u.q[7] * u.scale.y + vec4<f32>(u.offset.y));
    }
}

// Copies half of a block of activations, or half `part` of that, to row `row` of the tile. The row of activations starts at
// vec4 `input_row`.
fn copy(block: u32, half: u32, part: u32, row: u32, input_row: u32) {
    let halves = q_halves(block);
    let k = select(halves.x, halves.y, half == 1u) + part * 8u;
    let to = half * 4u + part * 2u;
    mma_store_inputs(row, to, in_vec4(input_row, k));
    mma_store_inputs(row, to + 1u, in_vec4(input_row, k + 4u));
    if !FINE {
        mma_store_inputs(row, to + 2u, in_vec4(input_row, k + 8u));
        mma_store_inputs(row, to + 3u, in_vec4(input_row, k + 12u));
    }
}

// Copies vec4 `i` of the eight of a block of activations to row `row` of the tile.
fn copy_vec4(block: u32, i: u32, row: u32, input_row: u32) {
    let halves = q_halves(block);
    mma_store_inputs(row, i, in_vec4(input_row, select(halves.x, halves.y, i >= 4u) + (i & 3u) * 4u));
}

// Stores the products of four weight rows from `weight` on with row `row` of a tile that ends at `end`.
fn finish(row: u32, end: u32, weight: u32, products: vec4<f32>) {
    if row < end {
        store_output4(tile_output(row) * p.y_stride + p.y_offset, weight, products);
    }
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let first_row = tile_first(tile.y);
    let end = tile_end(tile.y);
    if first_row >= end {
        return;
    }
    let first_weight = tile.x * TILE_N;
    // Half of the invocations decode weights, the others copy activations.
    let decodes = invocation < WG / 2u;
    let decode_row = tile_first_weight(tile.y) + min(first_weight + mma_weight_row(invocation), p.weight_rows - 1u);
    let decode_block = decode_row * p.k_blocks;
    let copy_row = invocation & 31u;
    let input_row = tile_input(min(first_row + copy_row, end - 1u)) * (p.k >> 2u);
    let next_input_row = tile_input(min(first_row + copy_row + 32u, end - 1u)) * (p.k >> 2u);
    mma_zero(invocation);
    for (var block = opaque_zero(workgroup); block < p.k_blocks; block += 1u) {
        if decodes {
            decode(decode_block + block, (invocation >> 6u) & 1u, invocation & 63u);
        } else {
            let half = (invocation >> 5u) & 1u;
            let part = select(0u, (invocation >> 6u) & 1u, FINE);
            copy(block, half, part, copy_row, input_row);
            if MMA_ROWS > 32u {
                copy(block, half, part, copy_row + 32u, next_input_row);
            }
        }
        workgroupBarrier();
        mma_add(invocation);
        workgroupBarrier();
        if TILE_M > MMA_ROWS {
            copy_vec4(block, invocation >> 5u, copy_row, next_input_row);
            workgroupBarrier();
            mma_add_second(invocation);
            workgroupBarrier();
        }
    }
    mma_finish(first_row, end, first_weight, invocation);
}
