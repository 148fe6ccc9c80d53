// y[i] = W x[i] for some rows i at once: a workgroup multiplies 64 weight rows with a tile of TILE_M = 4 rows of
// activations, the columns. The lanes share a group of 8 weight rows: a unit is decoded once for the 4 columns, and a
// unit's activations are fetched once for the 8 rows.
const ROWS = 8u;
const TILE = 64u;
const COLUMNS = TILE_M;
const GROUP = ROWS;

// One weight row's unit times the four columns.
fn products(unit: u32, x0: QInput, x1: QInput, x2: QInput, x3: QInput) -> vec4<f32> {
    let u = q_unit(unit, p.units);
    return vec4<f32>(q_product(u, x0), q_product(u, x1), q_product(u, x2), q_product(u, x3));
}

fn store(row: u32, lane: u32, sum: vec4<f32>) {
    let at = (row * LANES + lane) * COLUMNS;
    lanes_partial[at] = sum.x;
    lanes_partial[at + 1u] = sum.y;
    lanes_partial[at + 2u] = sum.z;
    lanes_partial[at + 3u] = sum.w;
}

// Where a row of activations starts in `x`.
fn input(row: u32) -> u32 {
    return (p.x_offset >> 2u) + tile_input(row) * (p.k >> 2u);
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let tile = grid_id(workgroup);
    let first_row = tile_first(tile.y);
    let end = tile_end(tile.y);
    if first_row >= end {
        return;
    }
    let columns = min(end - first_row, COLUMNS);
    let input0 = input(first_row);
    let input1 = input(min(first_row + 1u, end - 1u));
    let input2 = input(min(first_row + 2u, end - 1u));
    let input3 = input(min(first_row + 3u, end - 1u));
    let lane = invocation % LANES;
    let group = (invocation / LANES) * ROWS;
    let first = tile_first_weight(tile.y);
    let row = tile.x * TILE + group;
    let last = p.matrix_rows - 1u;
    let unit0 = (first + min(row, last)) * p.row_units;
    let unit1 = (first + min(row + 1u, last)) * p.row_units;
    let unit2 = (first + min(row + 2u, last)) * p.row_units;
    let unit3 = (first + min(row + 3u, last)) * p.row_units;
    let unit4 = (first + min(row + 4u, last)) * p.row_units;
    let unit5 = (first + min(row + 5u, last)) * p.row_units;
    let unit6 = (first + min(row + 6u, last)) * p.row_units;
    let unit7 = (first + min(row + 7u, last)) * p.row_units;
    // A vec4 is the columns of one weight row.
    var sum0 = vec4<f32>(0.0);
    var sum1 = vec4<f32>(0.0);
    var sum2 = vec4<f32>(0.0);
    var sum3 = vec4<f32>(0.0);
    var sum4 = vec4<f32>(0.0);
    var sum5 = vec4<f32>(0.0);
    var sum6 = vec4<f32>(0.0);
    var sum7 = vec4<f32>(0.0);
    for (var unit = lane; unit < p.row_units; unit += LANES) {
        // A column that the tile does not have is computed as the first, and not stored.
        let x0 = in_unit(input0, unit);
        var x1 = x0;
        var x2 = x0;
        var x3 = x0;
        if columns > 1u {
            x1 = in_unit(input1, unit);
        }
        if columns > 2u {
            x2 = in_unit(input2, unit);
        }
        if columns > 3u {
            x3 = in_unit(input3, unit);
        }
        sum0 += products(unit0 + unit, x0, x1, x2, x3);
        sum1 += products(unit1 + unit, x0, x1, x2, x3);
        sum2 += products(unit2 + unit, x0, x1, x2, x3);
        sum3 += products(unit3 + unit, x0, x1, x2, x3);
        sum4 += products(unit4 + unit, x0, x1, x2, x3);
        sum5 += products(unit5 + unit, x0, x1, x2, x3);
        sum6 += products(unit6 + unit, x0, x1, x2, x3);
        sum7 += products(unit7 + unit, x0, x1, x2, x3);
    }
    store(group, lane, sum0);
    store(group + 1u, lane, sum1);
    store(group + 2u, lane, sum2);
    store(group + 3u, lane, sum3);
    store(group + 4u, lane, sum4);
    store(group + 5u, lane, sum5);
    store(group + 6u, lane, sum6);
    store(group + 7u, lane, sum7);
    workgroupBarrier();
    for (var column = 0u; column < columns; column += 1u) {
        let out_row = tile_output(first_row + column) * p.y_stride + p.y_offset;
        for (var i = invocation; i < TILE; i += WG) {
            lanes_finish(tile.x, i, column, out_row);
        }
    }
}
