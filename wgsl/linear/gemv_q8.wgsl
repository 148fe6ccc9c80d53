// linear/gemv of int8 activations, shared out alike.
const TILE = 32u;
const COLUMNS = 1u;
const GROUP = 4u;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    if !row_is_here(tile.y) {
        return;
    }
    let lane = invocation % LANES;
    let group = (invocation / LANES) * GROUP;
    let input_row = row_input(tile.y) * (p.k >> 4u);
    lanes_keep(group, lane, 0u, lanes_group(row_first_weight(tile.y), tile.x * TILE + group, lane, input_row));
    workgroupBarrier();
    if invocation < TILE {
        lanes_finish(tile.x, invocation, 0u, tile.y * p.y_stride + p.y_offset);
    }
}
