// Shared by the IQ3 formats: points of four weights, as bytes of magnitudes plus 64.

// Returns a block of the points of each half.
fn q_block_of_points(lo: vec4<u32>, hi: vec4<u32>, signs: vec4<u32>, scale: vec2<f32>) -> QBlock32 {
    let codes = q_biased_codes(
        q_apply_signs(lo, vec4<u32>(signs.x, signs.x >> 4u, signs.y, signs.y >> 4u)),
        q_apply_signs(hi, vec4<u32>(signs.z, signs.z >> 4u, signs.w, signs.w >> 4u)), 64u,
    );
    return QBlock32(codes, scale, vec2<f32>(0.0));
}
