// How products by lanes of units take a sum, so that all give the same bits: 8 lanes take turns at the units of
// a weight row, and what they have is added in their order. A workgroup has TILE weight rows and COLUMNS activation rows. The
// lanes share a group of GROUP weight rows, one or four, where they have one column at a time.
const LANES = 8u;

var<workgroup> lanes_partial: array<f32, TILE * LANES * COLUMNS>; // [TILE][LANES][COLUMNS]

// What lane `lane` has of the sums of a group's weight rows from row `row` on, of the matrix whose first row is `first`; those
// beyond its end are its last. A unit's activations are fetched once for the group.
fn lanes_group(first: u32, row: u32, lane: u32, input_row: u32) -> vec4<f32> {
    let last = p.matrix_rows - 1u;
    let unit0 = (first + min(row, last)) * p.row_units;
    let unit1 = (first + min(row + 1u, last)) * p.row_units;
    let unit2 = (first + min(row + 2u, last)) * p.row_units;
    let unit3 = (first + min(row + 3u, last)) * p.row_units;
    var sum = vec4<f32>(0.0);
    for (var unit = lane; unit < p.row_units; unit += LANES) {
        let input = in_unit(input_row, unit);
        if GROUP == 1u {
            sum.x += q_dot(unit0 + unit, p.units, input);
            continue;
        }
        sum += vec4<f32>(
            q_dot(unit0 + unit, p.units, input), q_dot(unit1 + unit, p.units, input),
            q_dot(unit2 + unit, p.units, input), q_dot(unit3 + unit, p.units, input),
        );
    }
    return sum;
}

// Keeps them, `row` being the first of the group in the tile.
fn lanes_keep(row: u32, lane: u32, column: u32, sum: vec4<f32>) {
    let at = (row * LANES + lane) * COLUMNS + column;
    lanes_partial[at] = sum.x;
    if GROUP == 1u {
        return;
    }
    lanes_partial[at + LANES * COLUMNS] = sum.y;
    lanes_partial[at + 2u * LANES * COLUMNS] = sum.z;
    lanes_partial[at + 3u * LANES * COLUMNS] = sum.w;
}

fn lanes_total(row: u32, column: u32) -> f32 {
    var total = 0.0;
    for (var lane = 0u; lane < LANES; lane += 1u) {
        total += lanes_partial[(row * LANES + lane) * COLUMNS + column];
    }
    return total;
}

// Stores output `i` of tile `tile` for a column whose row of outputs starts at `out_row`; i < TILE.
fn lanes_finish(tile: u32, i: u32, column: u32, out_row: u32) {
    if GATED {
        if i < TILE / 2u {
            put_gated(out_row, tile * (TILE / 2u) + i, lanes_total(2u * i, column), lanes_total(2u * i + 1u, column));
        }
        return;
    }
    put(out_row, tile * TILE + i, lanes_total(i, column));
}
