// Scalar multiply-adds in f32: an invocation multiplies four weight rows by four rows of each 32.
//
// A tile is [8][rows] of vec4 along K: invocations that load the same vec4 of neighbouring rows load neighbouring memory. Rows are
// two dimensions, one of which numbers an invocation's own rows: constant indices need no bounds checks. Its four weight rows are
// 16 apart in a tile, its rows of activations neighbours.
const MMA_ROWS = TILE_M;

var<workgroup> weights: array<array<array<vec4<TileValue>, 16>, TILE_N / 16u>, 8>;
var<workgroup> inputs: array<array<array<vec4<TileValue>, 4>, TILE_M / 4u>, 8>;

var<private> mma_0: vec4<f32>;
var<private> mma_1: vec4<f32>;
var<private> mma_2: vec4<f32>;
var<private> mma_3: vec4<f32>;
var<private> mma_32: vec4<f32>;
var<private> mma_33: vec4<f32>;
var<private> mma_34: vec4<f32>;
var<private> mma_35: vec4<f32>;

// Returns the weight row that is row i of the tile: the four weight rows of an invocation are 16 rows apart there, and those of
// neighbouring invocations are neighbours.
fn mma_weight_row(i: u32) -> u32 {
    return ((i & 15u) << 2u) | ((i >> 4u) & 3u);
}

fn mma_store_weights(row: u32, i: u32, values: vec4<f32>) {
    weights[i][row / 16u][row % 16u] = tile_values(values);
}

fn mma_store_inputs(row: u32, i: u32, values: vec4<f32>) {
    inputs[i][row / 4u][row % 4u] = tile_values(values);
}

fn mma_zero(invocation: u32) {
    mma_0 = vec4<f32>(0.0);
    mma_1 = vec4<f32>(0.0);
    mma_2 = vec4<f32>(0.0);
    mma_3 = vec4<f32>(0.0);
    mma_32 = vec4<f32>(0.0);
    mma_33 = vec4<f32>(0.0);
    mma_34 = vec4<f32>(0.0);
    mma_35 = vec4<f32>(0.0);
}

fn mma_weight(invocation: u32) -> u32 {
    return (invocation & 15u) * 4u;
}

fn mma_row(invocation: u32) -> u32 {
    return (invocation >> 4u) * 4u;
}

// Adds four products of four weight rows with a row of activations, in the order of K.
fn mma_add4(a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>, x: vec4<f32>, sum: vec4<f32>) -> vec4<f32> {
    var total = sum;
    total += vec4<f32>(a.x, b.x, c.x, d.x) * x.x;
    total += vec4<f32>(a.y, b.y, c.y, d.y) * x.y;
    total += vec4<f32>(a.z, b.z, c.z, d.z) * x.z;
    total += vec4<f32>(a.w, b.w, c.w, d.w) * x.w;
    return total;
}

// Adds the products of vec4 `i` of the rows of an invocation.
fn mma_add_vec4(i: u32, weight: u32, group: u32) {
    let a = vec4<f32>(weights[i][0][weight]);
    let b = vec4<f32>(weights[i][1][weight]);
    let c = vec4<f32>(weights[i][2][weight]);
    let d = vec4<f32>(weights[i][3][weight]);
    // Two at once: with fewer registers Mesa's compiler for NVIDIA copies them to and fro (Q6_K).
    let x0 = vec4<f32>(inputs[i][group][0]);
    let x1 = vec4<f32>(inputs[i][group][1]);
    mma_0 = mma_add4(a, b, c, d, x0, mma_0);
    mma_1 = mma_add4(a, b, c, d, x1, mma_1);
    mma_2 = mma_add4(a, b, c, d, vec4<f32>(inputs[i][group][2]), mma_2);
    mma_3 = mma_add4(a, b, c, d, vec4<f32>(inputs[i][group][3]), mma_3);
    if TILE_M > 32u {
        mma_32 = mma_add4(a, b, c, d, vec4<f32>(inputs[i][group + 8u][0]), mma_32);
        mma_33 = mma_add4(a, b, c, d, vec4<f32>(inputs[i][group + 8u][1]), mma_33);
        mma_34 = mma_add4(a, b, c, d, vec4<f32>(inputs[i][group + 8u][2]), mma_34);
        mma_35 = mma_add4(a, b, c, d, vec4<f32>(inputs[i][group + 8u][3]), mma_35);
    }
}

// Without a loop every first index is a constant: addresses are constant offsets of a few that do not change, and there is no
// counter of a loop's rounds, which naga adds to each loop.
fn mma_add(invocation: u32) {
    let weight = invocation & 15u;
    let group = invocation / 16u;
    mma_add_vec4(0u, weight, group);
    mma_add_vec4(1u, weight, group);
    mma_add_vec4(2u, weight, group);
    mma_add_vec4(3u, weight, group);
    mma_add_vec4(4u, weight, group);
    mma_add_vec4(5u, weight, group);
    mma_add_vec4(6u, weight, group);
    mma_add_vec4(7u, weight, group);
}

fn mma_add_second(invocation: u32) {}

fn mma_finish(first_row: u32, end: u32, first_weight: u32, invocation: u32) {
    let weight = first_weight + mma_weight(invocation);
    let row = first_row + mma_row(invocation);
    finish(row, end, weight, mma_0);
    finish(row + 1u, end, weight, mma_1);
    finish(row + 2u, end, weight, mma_2);
    finish(row + 3u, end, weight, mma_3);
    if TILE_M > 32u {
        finish(row + 32u, end, weight, mma_32);
        finish(row + 33u, end, weight, mma_33);
        finish(row + 34u, end, weight, mma_34);
        finish(row + 35u, end, weight, mma_35);
    }
}
