// Cooperative matrices of 16 by 16. A part of a tile, 32 of its rows, is two by four of them. Each of eight subgroups multiplies
// one, each of four two of the same rows; further subgroups compute one again, to the same bits: naga requires cooperative
// operations in uniform control flow. The driver chooses which elements of a matrix an invocation has, so that sums are stored to
// workgroup memory.
alias MmaRows = coop_mat16x16<TileValue, A>;
alias MmaWeights = coop_mat16x16<TileValue, B>;
alias MmaSums = coop_mat16x16<f32, C>;

// A row of a tile is eight vec4 along K and two of padding: 16 rows use different banks. Metal, which loads matrices from
// scalars only, has none of 16.
const MMA_PITCH = 10u;

// The rows of a part, which is in workgroup memory at a time: there is no room for the sums of two.
const MMA_ROWS = 32u;

var<workgroup> weights: array<vec4<TileValue>, TILE_N * MMA_PITCH>;
var<workgroup> inputs: array<vec4<TileValue>, MMA_ROWS * MMA_PITCH>;
var<workgroup> totals: array<f32, MMA_ROWS * TILE_N>; // [MMA_ROWS][TILE_N]

// The number of subgroups in x, by which control flow is uniform: naga takes the builtin for non-uniform. As a vec4 it does not
// move the tiles to places where they could not be loaded by vectors.
var<workgroup> mma_subgroups: vec4<u32>;

var<private> mma_0: MmaSums;
var<private> mma_1: MmaSums;
// Of the second part.
var<private> mma_2: MmaSums;
var<private> mma_3: MmaSums;

// Returns the first row of a subgroup's matrices.
fn mma_own_row() -> u32 {
    return (sg_id & 1u) * 16u;
}

// Returns the first weight row of a subgroup's first matrix. That of the second is 32 later.
fn mma_own_weights() -> u32 {
    return ((sg_id >> 1u) & 3u) * 16u;
}

fn mma_weight_row(i: u32) -> u32 {
    return i & (TILE_N - 1u);
}

fn mma_store_weights(row: u32, i: u32, values: vec4<f32>) {
    weights[row * MMA_PITCH + i] = tile_values(values);
}

fn mma_store_inputs(row: u32, i: u32, values: vec4<f32>) {
    inputs[row * MMA_PITCH + i] = tile_values(values);
}

// The body's first barrier follows before anything is read.
fn mma_zero(invocation: u32) {
    if invocation == 0u {
        mma_subgroups = vec4<u32>(sg_count);
    }
    mma_0 = MmaSums();
    mma_1 = MmaSums();
    mma_2 = MmaSums();
    mma_3 = MmaSums();
}

fn mma_add(invocation: u32) {
    let row = mma_own_row() * MMA_PITCH;
    let weight = mma_own_weights() * MMA_PITCH;
    for (var i = 0u; i < 8u; i += 4u) {
        let x = coopLoadT<MmaRows>(&inputs[row + i], MMA_PITCH);
        mma_0 = coopMultiplyAdd(x, coopLoad<MmaWeights>(&weights[weight + i], MMA_PITCH), mma_0);
        if mma_subgroups.x < 8u {
            mma_1 = coopMultiplyAdd(x, coopLoad<MmaWeights>(&weights[weight + 32u * MMA_PITCH + i], MMA_PITCH), mma_1);
        }
    }
}

// A parameter would not be uniform for naga.
fn mma_add_second(invocation: u32) {
    let row = mma_own_row() * MMA_PITCH;
    let weight = mma_own_weights() * MMA_PITCH;
    for (var i = 0u; i < 8u; i += 4u) {
        let x = coopLoadT<MmaRows>(&inputs[row + i], MMA_PITCH);
        mma_2 = coopMultiplyAdd(x, coopLoad<MmaWeights>(&weights[weight + i], MMA_PITCH), mma_2);
        if mma_subgroups.x < 8u {
            mma_3 = coopMultiplyAdd(x, coopLoad<MmaWeights>(&weights[weight + 32u * MMA_PITCH + i], MMA_PITCH), mma_3);
        }
    }
}

fn mma_finish(first_row: u32, end: u32, first_weight: u32, invocation: u32) {
    let own = mma_own_row() * TILE_N + mma_own_weights();
    coopStoreT(mma_0, &totals[own], TILE_N);
    if mma_subgroups.x < 8u {
        coopStoreT(mma_1, &totals[own + 32u], TILE_N);
    }
    workgroupBarrier();
    mma_finish_part(first_row, end, first_weight, invocation);
    if TILE_M > MMA_ROWS {
        workgroupBarrier();
        coopStoreT(mma_2, &totals[own], TILE_N);
        if mma_subgroups.x < 8u {
            coopStoreT(mma_3, &totals[own + 32u], TILE_N);
        }
        workgroupBarrier();
        mma_finish_part(first_row + MMA_ROWS, end, first_weight, invocation);
    }
}

fn mma_finish_part(first_row: u32, end: u32, first_weight: u32, invocation: u32) {
    for (var i = invocation * 4u; i < MMA_ROWS * TILE_N; i += 4u * WG) {
        let products = vec4<f32>(totals[i], totals[i + 1u], totals[i + 2u], totals[i + 3u]);
        finish(first_row + (i >> 6u), end, first_weight + (i & 63u), products);
    }
}
