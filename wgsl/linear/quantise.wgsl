// Quantises activations to int8, a block of 32 per invocation. The result is exact: scales are powers of two, so that a division
// only changes the exponent, and rounding is to the nearest, ties to even.

fn largest(a: vec4<f32>) -> f32 {
    return max(max(a.x, a.y), max(a.z, a.w));
}

// Returns sixteen codes in four words.
fn codes(at: u32, inverse: f32) -> vec4<u32> {
    return vec4<u32>(word(x[at], inverse), word(x[at + 1u], inverse), word(x[at + 2u], inverse), word(x[at + 3u], inverse));
}

fn word(values: vec4<f32>, inverse: f32) -> u32 {
    let rounded = vec4<i32>(clamp(round(values * inverse), vec4<f32>(-127.0), vec4<f32>(127.0)));
    let bytes = bitcast<vec4<u32>>(rounded) & vec4<u32>(0xffu);
    return bytes.x | (bytes.y << 8u) | (bytes.z << 16u) | (bytes.w << 24u);
}

fn kernel(workgroup: vec3<u32>, invocation: u32) {
    let block = grid_id(workgroup).x * WG + invocation;
    if block >= p.blocks {
        return;
    }
    let at = block * 8u;
    let a = max(max(abs(x[at]), abs(x[at + 1u])), max(abs(x[at + 2u]), abs(x[at + 3u])));
    let b = max(max(abs(x[at + 4u]), abs(x[at + 5u])), max(abs(x[at + 6u]), abs(x[at + 7u])));
    // The smallest power of two d with max < 127.5 d: the exponent of max less 6, or less 5 if that is too small. It is clamped
    // so that neither d nor 1/d is subnormal.
    let bits = bitcast<u32>(largest(max(a, b)));
    let exponent = clamp((bits + 0x10000u) >> 23u, 64u, 190u) - 6u;
    scales[block] = bitcast<f32>(exponent << 23u);
    let inverse = bitcast<f32>((254u - exponent) << 23u);
    y[block * 2u] = codes(at, inverse);
    y[block * 2u + 1u] = codes(at + 4u, inverse);
}
