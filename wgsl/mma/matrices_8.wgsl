// Matrices of 8 by 8: a subgroup has two of them along its rows by four along its weight rows.
alias MmaRows = coop_mat8x8<TileValue, A>;
alias MmaWeights = coop_mat8x8<TileValue, B>;
alias MmaSums = coop_mat8x8<f32, C>;

var<private> mma_00: MmaSums;
var<private> mma_01: MmaSums;
var<private> mma_02: MmaSums;
var<private> mma_03: MmaSums;
var<private> mma_10: MmaSums;
var<private> mma_11: MmaSums;
var<private> mma_12: MmaSums;
var<private> mma_13: MmaSums;

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
        let row = k * TILE_M + mma_own_row();
        let weight = k * TILE_N + mma_own_weights() * 32u;
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

fn mma_store_first(at: u32) {
    coopStoreT(mma_00, &totals[at], MMA_COLUMNS);
    coopStoreT(mma_01, &totals[at + 8u], MMA_COLUMNS);
    coopStoreT(mma_10, &totals[at + 8u * MMA_COLUMNS], MMA_COLUMNS);
    coopStoreT(mma_11, &totals[at + 8u * MMA_COLUMNS + 8u], MMA_COLUMNS);
}

fn mma_store_second(at: u32) {
    coopStoreT(mma_02, &totals[at], MMA_COLUMNS);
    coopStoreT(mma_03, &totals[at + 8u], MMA_COLUMNS);
    coopStoreT(mma_12, &totals[at + 8u * MMA_COLUMNS], MMA_COLUMNS);
    coopStoreT(mma_13, &totals[at + 8u * MMA_COLUMNS + 8u], MMA_COLUMNS);
}
