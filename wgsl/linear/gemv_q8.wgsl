// linear/gemv of int8 activations, shared out alike: 8 lanes take turns at the units of 4 weight rows.
const ROWS = 4u;
const TILE = 32u;
const COLUMNS = 1u;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    if !row_is_here(tile.y) {
        return;
    }
    let lane = invocation % LANES;
    let group = invocation / LANES;
    let first = row_first_weight(tile.y);
    let input_row = row_input(tile.y) * (p.k >> 4u);
    let row = tile.x * TILE + group * ROWS;
    let last = p.matrix_rows - 1u;
    let unit0 = (first + min(row, last)) * p.row_units;
    let unit1 = (first + min(row + 1u, last)) * p.row_units;
    let unit2 = (first + min(row + 2u, last)) * p.row_units;
    let unit3 = (first + min(row + 3u, last)) * p.row_units;
    var sum = vec4<f32>(0.0);
    for (var unit = lane; unit < p.row_units; unit += LANES) {
        let input = in_unit(input_row, unit);
        sum += vec4<f32>(
            q_dot(unit0 + unit, p.units, input), q_dot(unit1 + unit, p.units, input),
            q_dot(unit2 + unit, p.units, input), q_dot(unit3 + unit, p.units, input),
        );
    }
    let at = group * (ROWS * LANES) + lane;
    lanes_partial[at] = sum.x;
    lanes_partial[at + LANES] = sum.y;
    lanes_partial[at + 2u * LANES] = sum.z;
    lanes_partial[at + 3u * LANES] = sum.w;
    workgroupBarrier();
    if invocation < TILE {
        lanes_finish(tile.x, invocation, 0u, tile.y * p.y_stride + p.y_offset);
    }
}
