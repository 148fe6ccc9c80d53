// Activations are normed on the way, x / rms(x) * norm, with the bits of elementwise/rms_norm: squares are summed as there,
// of the elements at equal distances of 256 and then by halves, an invocation here having four of these 256 sums at a time.
var<private> in_scale: f32;

fn in_load(row: u32, i: u32) -> vec4<f32> {
    let value = x[row + i] * in_scale * norm[i];
    // Or compilers would contract or reorder the product with sums that it meets, as they can't where it is stored: they
    // know nothing of the sign of eps, which is 0.
    return bitcast<vec4<f32>>(bitcast<vec4<u32>>(value) | vec4<u32>(bitcast<u32>(p.eps) >> 31u));
}

fn in_squares(row: u32, i: u32) -> vec4<f32> {
    let count = p.k >> 2u;
    let values = select(vec4<f32>(0.0), x[row + min(i, count - 1u)], vec4<bool>(i < count));
    return values * values;
}

// The scale by the last four sums.
fn in_scale_by(sums: vec4<f32>) {
    in_scale = 1.0 / sqrt(((sums.x + sums.z) + (sums.y + sums.w)) / f32(p.k) + p.eps);
}
