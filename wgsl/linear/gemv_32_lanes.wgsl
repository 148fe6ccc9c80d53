// GEMV with 32 lanes a weight row, for matrices of so few rows that a GPU would wait for the blocks of each: y[i] = W x[i] for
// single rows i. A workgroup multiplies 2 weight rows by one row of activations. The products of single blocks are kept in
// workgroup memory, and added by the 8 lanes of linear/k_split in its order: the sums have the bits of linear/gemv.
const TILE_N = 2u;
const BATCH = 1u;
const ROW_LANES = WG / TILE_N;
// Blocks of a row whose products are kept at once.
const KEPT = 4u * ROW_LANES;

var<workgroup> block_products: array<f32, TILE_N * KEPT>;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    if !row_is_local(tile.y) {
        return;
    }
    let row = invocation / ROW_LANES;
    let lane = invocation % ROW_LANES;
    let input_row = (p.x_offset >> 2u) + row_input(tile.y) * (p.k >> 2u);
    in_prepare(input_row, invocation);
    let first = (row_first_weight(tile.y) + min(tile.x * TILE_N + row, p.weight_rows - 1u)) * p.k_blocks;
    var sum = 0.0;
    for (var start = opaque_zero(workgroup); start < p.k_blocks; start += KEPT) {
        let count = min(p.k_blocks - start, KEPT);
        for (var i = lane; i < count; i += ROW_LANES) {
            let block = start + i;
            let input = in_block32(input_row, block);
            block_products[row * KEPT + i] = block_product(first + (block & ~7u), lane & 7u, input);
        }
        workgroupBarrier();
        if lane < LANES {
            for (var i = lane; i < count; i += LANES) {
                sum += block_products[row * KEPT + i];
            }
        }
        workgroupBarrier();
    }
    if lane < LANES {
        store_partial(row, lane, 0u, vec4<f32>(sum, 0.0, 0.0, 0.0));
    }
    workgroupBarrier();
    if invocation < TILE_N {
        reduce_and_store(tile.x, invocation, 0u, tile.y * p.y_stride + p.y_offset);
    }
}
