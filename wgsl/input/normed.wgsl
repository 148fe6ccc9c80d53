// RMS norm fused into the product: x / rms(x) * norm. The bits are those of elementwise/rms_norm, because the squares are
// summed in the same order: 256 partial sums of elements 256 apart, then a binary tree. An invocation has four of the 256.
var<private> in_scale: f32;

fn in_load(row: u32, i: u32) -> vec4<f32> {
    let value = x[row + i] * in_scale * norm[i];
    // The product must not be contracted into an FMA, or the bits would differ from a stored norm's. The compiler does not
    // know that the sign bit of eps is 0.
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(value) | vec4<u32>(bitcast<u32>(p.eps) >> 31u));
}

fn in_squares(row: u32, i: u32) -> vec4<f32> {
    let count = p.k >> 2u;
    let values = select(vec4<f32>(0.0), x[row + min(i, count - 1u)], vec4<bool>(i < count));
    return values * values;
}

// Sets the scale from the last four partial sums.
fn in_scale_by(sums: vec4<f32>) {
    in_scale = 1.0 / sqrt(((sums.x + sums.z) + (sums.y + sums.w)) / f32(p.k) + p.eps);
}
