// The arithmetic of QK-norm and RoPE (Su et al. 2021). All kernels that rotate heads share it and get the same bits, so
// blocks of keys may be shared whichever kernel wrote them.

// Keeps compilers from contracting a product with a sum: they cannot know that eps has no sign.
fn rope_no_contract(product: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(product) | (bitcast<u32>(p.eps) >> 31u));
}

fn rope_squares(x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(
        rope_no_contract(x.x * x.x), rope_no_contract(x.y * x.y), rope_no_contract(x.z * x.z), rope_no_contract(x.w * x.w),
    );
}

// The sum of one eighth of a head's squares, which were added up in four columns.
fn rope_eighth_sum(squares: vec4<f32>) -> f32 {
    return (squares.x + squares.z) + (squares.y + squares.w);
}

// 1 / rms(head), from the sum of its squares.
fn rope_inverse_rms(square_sum: f32) -> f32 {
    return 1.0 / sqrt(square_sum / f32(p.head_dim) + p.eps);
}

// A pair rotated by the angle with this cosine and sine.
fn rope_rotate(pair: vec2<f32>, angle: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(
        rope_no_contract(pair.x * angle.x) - rope_no_contract(pair.y * angle.y),
        rope_no_contract(pair.y * angle.x) + rope_no_contract(pair.x * angle.y),
    );
}
