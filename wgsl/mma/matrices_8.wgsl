// Cooperative matrices of 8 by 8. A tile has four parts, each of 16 of its rows by 32 of its weight rows: two matrices by four.
// Each of four subgroups multiplies one part; further subgroups compute a part again, to the same bits: naga requires
// cooperative operations in uniform control flow.
//
// The driver chooses which elements of a matrix an invocation has. So sums are loaded as zeros from workgroup memory and stored
// there, 16 of each part's 32 weight rows at a time. Tiles are k-major and of scalars, since Metal loads matrices from those.
alias MmaRows = coop_mat8x8<TileValue, A>;
alias MmaWeights = coop_mat8x8<TileValue, B>;
alias MmaSums = coop_mat8x8<f32, C>;

const MMA_ROWS = TILE_M;
const MMA_COLUMNS = 32u;

var<workgroup> weights: array<TileValue, 32u * TILE_N>; // [32][TILE_N]
var<workgroup> inputs: array<TileValue, 32u * TILE_M>;  // [32][TILE_M]

var<workgroup> totals: array<f32, 1024>; // [TILE_M][MMA_COLUMNS]

var<private> mma_00: MmaSums;
var<private> mma_01: MmaSums;
var<private> mma_02: MmaSums;
var<private> mma_03: MmaSums;
var<private> mma_10: MmaSums;
var<private> mma_11: MmaSums;
var<private> mma_12: MmaSums;
var<private> mma_13: MmaSums;

// Returns the first row of a part.
fn mma_part_row(part: u32) -> u32 {
    return (part & 1u) * 16u;
}

// Returns the first weight row of a part.
fn mma_part_weights(part: u32) -> u32 {
    return ((part >> 1u) & 1u) * 32u;
}

// Returns where the sums of a part's first 16 weight rows, or of its last, are in `totals`.
fn mma_part_totals(part: u32) -> u32 {
    return mma_part_row(part) * MMA_COLUMNS + (mma_part_weights(part) >> 1u);
}

fn mma_weight_row(i: u32) -> u32 {
    return i & (TILE_N - 1u);
}

fn mma_store_weights(row: u32, i: u32, values: vec4<f32>) {
    let at = i * 4u * TILE_N + row;
    let value = tile_values(values);
    weights[at] = value.x;
    weights[at + TILE_N] = value.y;
    weights[at + 2u * TILE_N] = value.z;
    weights[at + 3u * TILE_N] = value.w;
}

fn mma_store_inputs(row: u32, i: u32, values: vec4<f32>) {
    let at = i * 4u * TILE_M + row;
    let value = tile_values(values);
    inputs[at] = value.x;
    inputs[at + TILE_M] = value.y;
    inputs[at + 2u * TILE_M] = value.z;
    inputs[at + 3u * TILE_M] = value.w;
}

fn mma_zero(invocation: u32) {
    for (var i = invocation; i < 1024u; i += WG) {
        totals[i] = 0.0;
    }
    workgroupBarrier();
    mma_load_zeros();
}

fn mma_load_zeros() {
    let zeros = coopLoadT<MmaSums>(&totals[0], MMA_COLUMNS);
    mma_00 = zeros;
    mma_01 = zeros;
    mma_02 = zeros;
    mma_03 = zeros;
    mma_10 = zeros;
    mma_11 = zeros;
    mma_12 = zeros;
    mma_13 = zeros;
}

fn mma_add(invocation: u32) {
    for (var k = 0u; k < 32u; k += 8u) {
        let row = k * TILE_M + mma_part_row(sg_id);
        let weight = k * TILE_N + mma_part_weights(sg_id);
        let x0 = coopLoad<MmaRows>(&inputs[row], TILE_M);
        let x1 = coopLoad<MmaRows>(&inputs[row + 8u], TILE_M);
        let w0 = coopLoadT<MmaWeights>(&weights[weight], TILE_N);
        let w1 = coopLoadT<MmaWeights>(&weights[weight + 8u], TILE_N);
        let w2 = coopLoadT<MmaWeights>(&weights[weight + 16u], TILE_N);
        let w3 = coopLoadT<MmaWeights>(&weights[weight + 24u], TILE_N);
        mma_00 = coopMultiplyAdd(x0, w0, mma_00);
        mma_01 = coopMultiplyAdd(x0, w1, mma_01);
        mma_02 = coopMultiplyAdd(x0, w2, mma_02);
        mma_03 = coopMultiplyAdd(x0, w3, mma_03);
        mma_10 = coopMultiplyAdd(x1, w0, mma_10);
        mma_11 = coopMultiplyAdd(x1, w1, mma_11);
        mma_12 = coopMultiplyAdd(x1, w2, mma_12);
        mma_13 = coopMultiplyAdd(x1, w3, mma_13);
    }
}

fn mma_store_first() {
    let at = mma_part_totals(sg_id);
    coopStoreT(mma_00, &totals[at], MMA_COLUMNS);
    coopStoreT(mma_01, &totals[at + 8u], MMA_COLUMNS);
    coopStoreT(mma_10, &totals[at + 8u * MMA_COLUMNS], MMA_COLUMNS);
    coopStoreT(mma_11, &totals[at + 8u * MMA_COLUMNS + 8u], MMA_COLUMNS);
}

fn mma_store_last() {
    let at = mma_part_totals(sg_id);
    coopStoreT(mma_02, &totals[at], MMA_COLUMNS);
    coopStoreT(mma_03, &totals[at + 8u], MMA_COLUMNS);
    coopStoreT(mma_12, &totals[at + 8u * MMA_COLUMNS], MMA_COLUMNS);
    coopStoreT(mma_13, &totals[at + 8u * MMA_COLUMNS + 8u], MMA_COLUMNS);
}

fn mma_add_second(invocation: u32) {}

fn mma_finish(first_row: u32, end: u32, first_weight: u32, invocation: u32) {
    workgroupBarrier();
    mma_store_first();
    workgroupBarrier();
    mma_finish_half(0u, first_row, end, first_weight, invocation);
    workgroupBarrier();
    mma_store_last();
    workgroupBarrier();
    mma_finish_half(1u, first_row, end, first_weight, invocation);
}

// Finishes four products of two rows, of the first or the last 16 weight rows of each part.
fn mma_finish_half(half: u32, first_row: u32, end: u32, first_weight: u32, invocation: u32) {
    let row = (invocation >> 3u) * 2u;
    let column = (invocation & 7u) * 4u;
    let weight = first_weight + (column >> 4u) * 32u + half * 16u + (column & 15u);
    let at = row * MMA_COLUMNS + column;
    finish(first_row + row, end, weight, mma_total(at));
    finish(first_row + row + 1u, end, weight, mma_total(at + MMA_COLUMNS));
}

fn mma_total(at: u32) -> vec4<f32> {
    return vec4<f32>(totals[at], totals[at + 1u], totals[at + 2u], totals[at + 3u]);
}
