// GEMV: y[i] = W x[i] for single rows i. A workgroup multiplies 8 groups of weight rows by one row of activations; the 8
// lanes of a group split K.
const TILE_N = WG / LANES * ROWS_PER_GROUP;
const BATCH = 1u;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    if !row_is_local(tile.y) {
        return;
    }
    let lane = invocation % LANES;
    let group_row = (invocation / LANES) * ROWS_PER_GROUP;
    let input_row = (p.x_offset >> 2u) + row_input(tile.y) * (p.k >> 2u);
    in_prepare(input_row, invocation);
    let sums = k_split_sums(row_first_weight(tile.y), tile.x * TILE_N + group_row, lane, input_row);
    store_partial(group_row, lane, 0u, sums);
    workgroupBarrier();
    if invocation < TILE_N {
        reduce_and_store(tile.x, invocation, 0u, tile.y * p.y_stride + p.y_offset);
    }
}
