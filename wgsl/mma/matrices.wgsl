// Cooperative matrices. Four subgroups share a tile: each multiplies 16 of its rows by 32 of its weight rows, by mma_own_row
// and mma_own_weights. Further subgroups compute a part again, to the same bits: naga requires cooperative operations in
// uniform control flow.
//
// The driver chooses which elements of a matrix an invocation has. So sums are loaded as zeros from workgroup memory and stored
// there, 16 of each subgroup's 32 weight rows at a time.
const MMA_COLUMNS = 32u;

var<workgroup> totals: array<f32, 1024>; // [TILE_M][MMA_COLUMNS]

fn mma_own_row() -> u32 {
    return (sg_id & 1u) * 16u;
}

// 0 or 1.
fn mma_own_weights() -> u32 {
    return (sg_id >> 1u) & 1u;
}

fn mma_zero(invocation: u32) {
    for (var i = invocation; i < 1024u; i += WG) {
        totals[i] = 0.0;
    }
    workgroupBarrier();
    mma_load_zeros();
}

fn mma_finish(first_row: u32, end: u32, first_weight: u32, invocation: u32) {
    let at = mma_own_row() * MMA_COLUMNS + mma_own_weights() * 16u;
    workgroupBarrier();
    mma_store_first(at);
    workgroupBarrier();
    mma_finish_part(0u, first_row, end, first_weight, invocation);
    workgroupBarrier();
    mma_store_second(at);
    workgroupBarrier();
    mma_finish_part(1u, first_row, end, first_weight, invocation);
}

// Finishes four products of two rows.
fn mma_finish_part(part: u32, first_row: u32, end: u32, first_weight: u32, invocation: u32) {
    let row = (invocation >> 3u) * 2u;
    let column = (invocation & 7u) * 4u;
    let weight = first_weight + (column >> 4u) * 32u + part * 16u + (column & 15u);
    let at = row * MMA_COLUMNS + column;
    finish(first_row + row, end, weight, mma_total(at));
    finish(first_row + row + 1u, end, weight, mma_total(at + MMA_COLUMNS));
}

fn mma_total(at: u32) -> vec4<f32> {
    return vec4<f32>(totals[at], totals[at + 1u], totals[at + 2u], totals[at + 3u]);
}
