// Scalar multiply-adds in f32: an invocation multiplies four weight rows by four rows of each 32.
var<private> mma_0: vec4<f32>;
var<private> mma_1: vec4<f32>;
var<private> mma_2: vec4<f32>;
var<private> mma_3: vec4<f32>;
var<private> mma_32: vec4<f32>;
var<private> mma_33: vec4<f32>;
var<private> mma_34: vec4<f32>;
var<private> mma_35: vec4<f32>;

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

fn mma_add(invocation: u32) {
    let weight = mma_weight(invocation);
    let row = mma_row(invocation);
    for (var k = 0u; k < 32u; k += 1u) {
        let a = k * TILE_N + weight;
        let b = k * TILE_M + row;
        let w4 = vec4<f32>(f32(weights[a]), f32(weights[a + 1u]), f32(weights[a + 2u]), f32(weights[a + 3u]));
        mma_0 += w4 * f32(inputs[b]);
        mma_1 += w4 * f32(inputs[b + 1u]);
        mma_2 += w4 * f32(inputs[b + 2u]);
        mma_3 += w4 * f32(inputs[b + 3u]);
        if TILE_M > 32u {
            mma_32 += w4 * f32(inputs[b + 32u]);
            mma_33 += w4 * f32(inputs[b + 33u]);
            mma_34 += w4 * f32(inputs[b + 34u]);
            mma_35 += w4 * f32(inputs[b + 35u]);
        }
    }
}

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
