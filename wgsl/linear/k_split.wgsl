// K-split: 8 lanes take turns at the blocks of a weight row, and their partial sums are added in lane order. All kernels
// that include this file therefore sum in the same order. A workgroup has TILE_N weight rows and BATCH activation rows.
// With one activation row at a time, the lanes share a group of ROWS_PER_GROUP weight rows, one or four.
const LANES = 8u;

var<workgroup> partials: array<f32, TILE_N * LANES * BATCH>; // [TILE_N][LANES][BATCH]

// Returns the product of block `l < 8` of those from block `first` on, of a matrix, with its activations. A lane's `l` is the
// same in every round, as `first` is a multiple of 8 for formats in super-blocks: what depends on it alone is computed once.
fn block_product(first: u32, l: u32, input: QInput) -> f32 {
    return k_split_rounded(q_product(q_block32_at(first, l, p.n_blocks), input));
}

// Returns a lane's partial sums of a group of weight rows from row `row` on, of the matrix whose first row is `first`.
// Rows beyond the matrix repeat its last row. The activations of a block are loaded once for the group.
fn k_split_sums(first: u32, row: u32, lane: u32, input_row: u32) -> vec4<f32> {
    let last = p.weight_rows - 1u;
    let block0 = (first + min(row, last)) * p.k_blocks;
    let block1 = (first + min(row + 1u, last)) * p.k_blocks;
    let block2 = (first + min(row + 2u, last)) * p.k_blocks;
    let block3 = (first + min(row + 3u, last)) * p.k_blocks;
    var sum = vec4<f32>(0.0);
    for (var block = lane; block < p.k_blocks; block += LANES) {
        let input = in_block32(input_row, block);
        let round = block - lane;
        if ROWS_PER_GROUP == 1u {
            sum.x += block_product(block0 + round, lane, input);
            continue;
        }
        sum += vec4<f32>(
            block_product(block0 + round, lane, input), block_product(block1 + round, lane, input),
            block_product(block2 + round, lane, input), block_product(block3 + round, lane, input),
        );
    }
    return sum;
}

// Stores a lane's partial sums of the group whose first row in the tile is `row`, for activation row `column` of the batch.
fn store_partial(row: u32, lane: u32, column: u32, sum: vec4<f32>) {
    let at = (row * LANES + lane) * BATCH + column;
    partials[at] = sum.x;
    if ROWS_PER_GROUP == 1u {
        return;
    }
    partials[at + LANES * BATCH] = sum.y;
    partials[at + 2u * LANES * BATCH] = sum.z;
    partials[at + 3u * LANES * BATCH] = sum.w;
}

fn reduce_partials(row: u32, column: u32) -> f32 {
    var total = 0.0;
    for (var lane = 0u; lane < LANES; lane += 1u) {
        total += partials[(row * LANES + lane) * BATCH + column];
    }
    return total;
}
