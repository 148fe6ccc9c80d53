// GEMM: Y = X Wᵀ for many rows. A workgroup multiplies 64 weight rows by a tile of TILE_M = 32 or 64 rows of activations.
// Tiles of 32 along K are decoded into workgroup memory, k-major, in the type of the slot `tile`; the slot `mma` multiplies
// them.
const TILE_N = 64u;

var<workgroup> weights: array<TileValue, 32u * TILE_N>; // [32][TILE_N]
var<workgroup> inputs: array<TileValue, 32u * TILE_M>;  // [32][TILE_M]

fn store_weights(k: u32, row: u32, values: vec4<f32>) {
    let at = k * TILE_N + row;
    let value = tile_values(values);
    weights[at] = value.x;
    weights[at + TILE_N] = value.y;
    weights[at + 2u * TILE_N] = value.z;
    weights[at + 3u * TILE_N] = value.w;
}

fn store_inputs(k: u32, row: u32, values: vec4<f32>) {
    let at = k * TILE_M + row;
    let value = tile_values(values);
    inputs[at] = value.x;
    inputs[at + TILE_M] = value.y;
    inputs[at + 2u * TILE_M] = value.z;
    inputs[at + 3u * TILE_M] = value.w;
}

// Copies half of a block of activations to row `row` of the tile. The row of activations starts at vec4 `input_row`.
fn copy_half(block: u32, half: u32, row: u32, input_row: u32) {
    let halves = q_halves(block);
    let k = select(halves.x, halves.y, half == 1u);
    let to = half * 16u;
    store_inputs(to, row, in_vec4(input_row, k));
    store_inputs(to + 4u, row, in_vec4(input_row, k + 4u));
    store_inputs(to + 8u, row, in_vec4(input_row, k + 8u));
    store_inputs(to + 12u, row, in_vec4(input_row, k + 12u));
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
    // Half of the invocations each decode a block of weights. The others each copy half a block of activations.
    let decodes = invocation < TILE_N;
    let decode_row = tile_first_weight(tile.y) + min(first_weight + (invocation & (TILE_N - 1u)), p.weight_rows - 1u);
    let decode_block = decode_row * p.k_blocks;
    let copy_row = (invocation & 63u) >> 1u;
    let half = invocation & 1u;
    let input_row = tile_input(min(first_row + copy_row, end - 1u)) * (p.k >> 2u);
    let next_input_row = tile_input(min(first_row + copy_row + 32u, end - 1u)) * (p.k >> 2u);
    mma_zero(invocation);
    for (var block = opaque_zero(workgroup); block < p.k_blocks; block += 1u) {
        if decodes {
            let u = q_block32(decode_block + block, p.n_blocks);
            let scale = vec2<f32>(u.scale.x, u.scale.y);
            store_weights(0u, invocation, u.q[0] * scale.x + vec4<f32>(u.offset.x));
            store_weights(4u, invocation, u.q[1] * scale.x + vec4<f32>(u.offset.x));
            store_weights(8u, invocation, u.q[2] * scale.x + vec4<f32>(u.offset.x));
            store_weights(12u, invocation, u.q[3] * scale.x + vec4<f32>(u.offset.x));
            store_weights(16u, invocation, u.q[4] * scale.y + vec4<f32>(u.offset.y));
            store_weights(20u, invocation, u.q[5] * scale.y + vec4<f32>(u.offset.y));
            store_weights(24u, invocation, u.q[6] * scale.y + vec4<f32>(u.offset.y));
            store_weights(28u, invocation, u.q[7] * scale.y + vec4<f32>(u.offset.y));
        } else {
            copy_half(block, half, copy_row, input_row);
            if TILE_M > 32u {
                copy_half(block, half, copy_row + 32u, next_input_row);
            }
        }
        workgroupBarrier();
        mma_add(invocation);
        workgroupBarrier();
    }
    mma_finish(first_row, end, first_weight, invocation);
}
