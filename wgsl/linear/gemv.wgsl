// y[i] = W x[i] for few rows i: a workgroup computes 32 outputs of one row. 8 lanes share a group of 4 weight rows and
// take turns at their units; a unit's activations are fetched once for the 4 rows.
const LANES = 8u;
const ROWS = 4u;
const GROUPS = 8u;

var<workgroup> partial: array<f32, 256>;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    if !row_is_here(tile.y) {
        return;
    }
    let lane = invocation % LANES;
    let group = invocation / LANES;
    let first = row_first_weight(tile.y);
    let input_row = row_input(tile.y) * (p.k >> 2u);
    let last = p.n - 1u;
    let row = tile.x * (GROUPS * ROWS) + group * ROWS;
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
    partial[at] = sum.x;
    partial[at + LANES] = sum.y;
    partial[at + 2u * LANES] = sum.z;
    partial[at + 3u * LANES] = sum.w;
    workgroupBarrier();
    let out = tile.x * (GROUPS * ROWS) + invocation;
    if invocation < GROUPS * ROWS && out < p.n {
        let from_lane = invocation * LANES;
        var total = 0.0;
        for (var i = 0u; i < LANES; i += 1u) {
            total += partial[from_lane + i];
        }
        let target_index = tile.y * p.y_stride + p.y_offset + out;
        if ACCUMULATE {
            y[target_index] += total;
        } else {
            y[target_index] = total;
        }
    }
}
