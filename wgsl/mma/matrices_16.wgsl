// Matrices of 16 by 16: a subgroup has one of them along its rows by two along its weight rows.
alias MmaRows = coop_mat16x16<TileValue, A>;
alias MmaWeights = coop_mat16x16<TileValue, B>;
alias MmaSums = coop_mat16x16<f32, C>;

var<private> mma_0: MmaSums;
var<private> mma_1: MmaSums;

fn mma_load_zeros() {
    let zeros = coopLoadT<MmaSums>(&totals[0], MMA_COLUMNS);
    mma_0 = zeros;
    mma_1 = zeros;
}

fn mma_add(invocation: u32) {
    for (var k = 0u; k < 32u; k += 16u) {
        let weight = k * TILE_N + mma_own_weights() * 32u;
        let x = coopLoad<MmaRows>(&inputs[k * TILE_M + mma_own_row()], TILE_M);
        let w0 = coopLoadT<MmaWeights>(&weights[weight], TILE_N);
        let w1 = coopLoadT<MmaWeights>(&weights[weight + 16u], TILE_N);
        mma_0 = coopMultiplyAdd(x, w0, mma_0);
        mma_1 = coopMultiplyAdd(x, w1, mma_1);
    }
}

fn mma_store_first(at: u32) {
    coopStoreT(mma_0, &totals[at], MMA_COLUMNS);
}

fn mma_store_second(at: u32) {
    coopStoreT(mma_1, &totals[at], MMA_COLUMNS);
}
