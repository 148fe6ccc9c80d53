// What turning a head is made of, so that all kernels that turn heads have the same bits: products that are added to something
// are kept from compilers, which might contract both or not. They know nothing of the sign of eps, which is 0.
fn turn_kept(product: f32) -> f32 {
    return bitcast<f32>(bitcast<u32>(product) | (bitcast<u32>(p.eps) >> 31u));
}

fn turn_squares(x: vec4<f32>) -> vec4<f32> {
    return vec4<f32>(turn_kept(x.x * x.x), turn_kept(x.y * x.y), turn_kept(x.z * x.z), turn_kept(x.w * x.w));
}

// What an eighth of a head's squares is: of every eighth four elements, summed one after the other.
fn turn_eighth(squares: vec4<f32>) -> f32 {
    return (squares.x + squares.z) + (squares.y + squares.w);
}

// 1 / rms(head) by the sum of its squares, the eighths' by halves.
fn turn_scale(squares: f32) -> f32 {
    return 1.0 / sqrt(squares / f32(HEAD_DIM) + p.eps);
}

// A pair, turned by the angle of this cosine and sine.
fn turn_pair(pair: vec2<f32>, angle: vec2<f32>) -> vec2<f32> {
    return vec2<f32>(
        turn_kept(pair.x * angle.x) - turn_kept(pair.y * angle.y),
        turn_kept(pair.y * angle.x) + turn_kept(pair.x * angle.y),
    );
}
