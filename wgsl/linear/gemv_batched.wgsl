// GEMV for a few rows at once: a workgroup multiplies 64 weight rows by a batch of TILE_M = 8 rows of activations. The 8 lanes
// of a group of two weight rows split K as in linear/k_split, to the same bits. In rounds of 8 blocks the activations are
// copied into workgroup memory, where all groups load them; a block of weights is decoded once for the batch. A smaller batch
// skips the rows that it does not have. The branches also bound how many activations a compiler loads ahead: without them Intel's
// spills, and with one for each row others need fewer registers than with one for two.
const LANES = 8u;
const TILE_N = 2u * WG / LANES;
const BATCH = TILE_M;

// The activations of a round, [BATCH][8] vec4 of the blocks of the lanes; then partial sums of four rows of the batch, where
// the first two indices are a weight row.
var<workgroup> vec4s: array<array<array<vec4<f32>, LANES>, 8>, 8>;

// The sums of the activations of half a block, [BATCH][2][LANES].
var<workgroup> half_sums: array<array<array<f32, LANES>, 2>, BATCH>;

// Copies half of a block of activations of row `column` of the batch, for a lane. Its row starts at vec4 `input_row`.
fn copy_half(block: u32, half: u32, column: u32, lane: u32, input_row: u32) {
    let halves = q_halves(block);
    let k = select(halves.x, halves.y, half == 1u);
    let x0 = in_vec4(input_row, k);
    let x1 = in_vec4(input_row, k + 4u);
    let x2 = in_vec4(input_row, k + 8u);
    let x3 = in_vec4(input_row, k + 12u);
    let to = half * 4u;
    vec4s[column][to][lane] = x0;
    vec4s[column][to + 1u][lane] = x1;
    vec4s[column][to + 2u][lane] = x2;
    vec4s[column][to + 3u][lane] = x3;
    half_sums[column][half][lane] = dot((x0 + x1) + (x2 + x3), vec4<f32>(1.0));
}

// Returns the dot products of half a block of two weight rows with one row of the batch.
fn half_products(a: array<vec4<f32>, 4>, b: array<vec4<f32>, 4>, column: u32, i: u32, lane: u32) -> vec2<f32> {
    let x = array<vec4<f32>, 4>(
        vec4s[column][i][lane], vec4s[column][i + 1u][lane], vec4s[column][i + 2u][lane], vec4s[column][i + 3u][lane],
    );
    return vec2<f32>(q_dot_half(a, x), q_dot_half(b, x));
}

// Returns those of the first half with row `column`, if the batch has that row.
fn first_products(a: array<vec4<f32>, 4>, b: array<vec4<f32>, 4>, column: u32, batch: u32, lane: u32) -> vec2<f32> {
    var sums = vec2<f32>(0.0);
    if batch > column {
        sums = half_products(a, b, column, 0u, lane);
    }
    return sums;
}

// Returns the products of a block of two weight rows with one row of the batch.
fn products(a: QBlock32, b: QBlock32, first: vec2<f32>, last: vec2<f32>, column: u32, lane: u32) -> vec2<f32> {
    let sum = vec2<f32>(half_sums[column][0][lane], half_sums[column][1][lane]);
    return vec2<f32>(
        k_split_rounded(q_scaled(a, vec2<f32>(first.x, last.x), sum)),
        k_split_rounded(q_scaled(b, vec2<f32>(first.y, last.y), sum)),
    );
}

fn reduce_partials(row: u32, column: u32) -> f32 {
    var total = 0.0;
    for (var lane = 0u; lane < LANES; lane += 1u) {
        total += vec4s[row >> 3u][row & 7u][lane][column & 3u];
    }
    return total;
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    // Of weight rows along x, of rows of activations along y.
    var tile = grid_id(workgroup);
    if ROWS_FIRST {
        tile = tile.yx;
    }
    let first_row = tile_first(tile.y);
    let end = tile_end(tile.y);
    if first_row >= end {
        return;
    }
    let batch = min(end - first_row, BATCH);
    let lane = invocation & 7u;
    // Half of the invocations copy half a block of activations each.
    let copies = invocation < 16u * BATCH;
    let copy_column = (invocation >> 4u) & 7u;
    let half = (invocation >> 3u) & 1u;
    let input_row = (p.x_offset >> 2u) + tile_input(min(first_row + copy_column, end - 1u)) * (p.k >> 2u);
    let group_row = (invocation >> 3u) * 2u;
    let row = tile.x * TILE_N + group_row;
    let first = tile_first_weight(tile.y);
    let last = p.weight_rows - 1u;
    let a_blocks = (first + min(row, last)) * p.k_blocks;
    let b_blocks = (first + min(row + 1u, last)) * p.k_blocks;
    var a0 = vec4<f32>(0.0);
    var a1 = vec4<f32>(0.0);
    var b0 = vec4<f32>(0.0);
    var b1 = vec4<f32>(0.0);
    for (var round = opaque_zero(workgroup); round < p.k_blocks; round += LANES) {
        let block = round + lane;
        let has_block = block < p.k_blocks;
        if copies && has_block {
            copy_half(block, half, copy_column, lane, input_row);
        }
        workgroupBarrier();
        if has_block {
            // The second half is decoded after the first: the codes of one are in registers at a time.
            let a_first = q_first_half(q_block32_at(a_blocks + round, lane, p.n_blocks));
            let b_first = q_first_half(q_block32_at(b_blocks + round, lane, p.n_blocks));
            let f0 = half_products(a_first, b_first, 0u, 0u, lane);
            let f1 = first_products(a_first, b_first, 1u, batch, lane);
            let f2 = first_products(a_first, b_first, 2u, batch, lane);
            let f3 = first_products(a_first, b_first, 3u, batch, lane);
            let f4 = first_products(a_first, b_first, 4u, batch, lane);
            let f5 = first_products(a_first, b_first, 5u, batch, lane);
            let f6 = first_products(a_first, b_first, 6u, batch, lane);
            let f7 = first_products(a_first, b_first, 7u, batch, lane);
            let a = q_block32_at(a_blocks + round, lane, p.n_blocks);
            let b = q_block32_at(b_blocks + round, lane, p.n_blocks);
            let a_last = q_last_half(a);
            let b_last = q_last_half(b);
            let p0 = products(a, b, f0, half_products(a_last, b_last, 0u, 4u, lane), 0u, lane);
            a0.x += p0.x;
            b0.x += p0.y;
            if batch > 1u {
                let p1 = products(a, b, f1, half_products(a_last, b_last, 1u, 4u, lane), 1u, lane);
                a0.y += p1.x;
                b0.y += p1.y;
            }
            if batch > 2u {
                let p2 = products(a, b, f2, half_products(a_last, b_last, 2u, 4u, lane), 2u, lane);
                a0.z += p2.x;
                b0.z += p2.y;
            }
            if batch > 3u {
                let p3 = products(a, b, f3, half_products(a_last, b_last, 3u, 4u, lane), 3u, lane);
                a0.w += p3.x;
                b0.w += p3.y;
            }
            if batch > 4u {
                let p4 = products(a, b, f4, half_products(a_last, b_last, 4u, 4u, lane), 4u, lane);
                a1.x += p4.x;
                b1.x += p4.y;
            }
            if batch > 5u {
                let p5 = products(a, b, f5, half_products(a_last, b_last, 5u, 4u, lane), 5u, lane);
                a1.y += p5.x;
                b1.y += p5.y;
            }
            if batch > 6u {
                let p6 = products(a, b, f6, half_products(a_last, b_last, 6u, 4u, lane), 6u, lane);
                a1.z += p6.x;
                b1.z += p6.y;
            }
            if batch > 7u {
                let p7 = products(a, b, f7, half_products(a_last, b_last, 7u, 4u, lane), 7u, lane);
                a1.w += p7.x;
                b1.w += p7.y;
            }
        }
        workgroupBarrier();
    }
    let group = group_row >> 3u;
    vec4s[group][group_row & 7u][lane] = a0;
    vec4s[group][(group_row & 7u) + 1u][lane] = b0;
    workgroupBarrier();
    finish(tile.x, 0u, first_row, end, invocation);
    if batch > 4u {
        workgroupBarrier();
        vec4s[group][group_row & 7u][lane] = a1;
        vec4s[group][(group_row & 7u) + 1u][lane] = b1;
        workgroupBarrier();
        finish(tile.x, 4u, first_row, end, invocation);
    }
}

// Stores the outputs of four rows of the batch from row `column` on, a row of the batch for each 64 invocations.
fn finish(tile: u32, column: u32, first_row: u32, end: u32, invocation: u32) {
    let batch_row = first_row + column + (invocation >> 6u);
    if batch_row < end {
        let out_row = tile_output(batch_row) * p.y_stride + p.y_offset;
        reduce_and_store(tile, invocation & 63u, column + (invocation >> 6u), out_row);
    }
}
