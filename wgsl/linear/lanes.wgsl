// How linear/gemv and linear/gemv_columns take a sum, so that both give the same bits: 8 lanes take turns at the units of
// a weight row, and what they have is added in their order. A workgroup has TILE weight rows and COLUMNS activation rows.
const LANES = 8u;

var<workgroup> lanes_partial: array<f32, TILE * LANES * COLUMNS>; // [TILE][LANES][COLUMNS]

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
