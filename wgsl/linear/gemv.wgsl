// y[i] = W x[i] for single rows i: a workgroup multiplies 8 groups of weight rows with one row of activations. 8 lanes
// share a group, taking turns at its units.
const TILE = WG / LANES * GROUP;
const COLUMNS = 1u;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    if !row_is_here(tile.y) {
        return;
    }
    let lane = invocation % LANES;
    let group = (invocation / LANES) * GROUP;
    let input_row = (p.x_offset >> 2u) + row_input(tile.y) * (p.k >> 2u);
    in_ready(input_row, invocation);
    lanes_keep(group, lane, 0u, lanes_group(row_first_weight(tile.y), tile.x * TILE + group, lane, input_row));
    workgroupBarrier();
    if invocation < TILE {
        lanes_finish(tile.x, invocation, 0u, tile.y * p.y_stride + p.y_offset);
    }
}
