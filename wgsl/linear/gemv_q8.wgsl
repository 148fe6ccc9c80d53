// GEMV of int8 activations, with the K-split of linear/gemv.
const TILE_N = 32u;
const BATCH = 1u;
const ROWS_PER_GROUP = 4u;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    if !row_is_local(tile.y) {
        return;
    }
    let lane = invocation % LANES;
    let group_row = (invocation / LANES) * ROWS_PER_GROUP;
    let input_row = row_input(tile.y) * (p.k >> 4u);
    let sums = k_split_sums(row_first_weight(tile.y), tile.x * TILE_N + group_row, lane, input_row);
    store_partial(group_row, lane, 0u, sums);
    workgroupBarrier();
    if invocation < TILE_N {
        reduce_and_store(tile.x, invocation, 0u, tile.y * p.y_stride + p.y_offset);
    }
}
