// y[t] += the weighted sum of W x of a token's experts: a workgroup has 32 weight rows of each expert in turn, as
// linear/gemv has of one. Up to 8 experts' lanes are in workgroup memory at once.
const ROWS = 4u;
const TILE = 32u;
const COLUMNS = 8u;

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let lane = invocation % LANES;
    let group = invocation / LANES;
    let row = tile.x * TILE + group * ROWS;
    let last = p.n - 1u;
    let pair = tile.y * p.share;
    var total = 0.0;
    for (var slots = grid_zero(workgroup); slots < p.share; slots += COLUMNS) {
        let end = min(slots + COLUMNS, p.share);
        for (var slot = slots; slot < end; slot += 1u) {
            let first = min(ids[pair + slot], p.experts - 1u) * p.n;
            let input_row = (pair + slot) * (p.k >> 2u);
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
            let at = (group * (ROWS * LANES) + lane) * COLUMNS + slot - slots;
            lanes_partial[at] = sum.x;
            lanes_partial[at + LANES * COLUMNS] = sum.y;
            lanes_partial[at + 2u * LANES * COLUMNS] = sum.z;
            lanes_partial[at + 3u * LANES * COLUMNS] = sum.w;
        }
        workgroupBarrier();
        if invocation < TILE {
            for (var slot = slots; slot < end; slot += 1u) {
                total += weights[pair + slot] * lanes_total(invocation, slot - slots);
            }
        }
        workgroupBarrier();
    }
    if invocation < TILE {
        put(tile.y * p.n, tile.x * TILE + invocation, total);
    }
}
