// Shared by the IQ2 formats: points of eight weights of the magnitudes 8, 25 and 43.

// Returns the codes of two points of eight weights each, plus 64. A nibble's bits stand for 1, 2, 16 and 32, which are added to
// 8.
fn q_signed_points(points: vec2<u32>, signs: vec2<u32>) -> vec4<u32> {
    let nibbles = vec4<u32>(points.x, points.x >> 4u, points.y, points.y >> 4u);
    let magnitudes = (nibbles & vec4<u32>(0x03030303u)) | ((nibbles & vec4<u32>(0x0c0c0c0cu)) << vec4<u32>(2u))
        | vec4<u32>(0x48484848u);
    return q_apply_signs(magnitudes, vec4<u32>(signs.x, signs.x >> 4u, signs.y, signs.y >> 4u));
}

// Returns the codes of a block of an IQ2 format.
fn q_block_points(points: vec4<u32>, signs: vec4<u32>, scale: vec2<f32>) -> QBlock32 {
    let codes = q_biased_codes(q_signed_points(points.xy, signs.xy), q_signed_points(points.zw, signs.zw), 64u);
    return QBlock32(codes, scale, vec2<f32>(0.0));
}

// Returns the scales of the halves of block `l`, from 16 of four bits.
fn q_half_scales(scales: vec2<u32>, l: u32) -> vec2<u32> {
    let byte = select(scales.x, scales.y, l >= 4u) >> ((l & 3u) << 3u);
    return vec2<u32>(byte, byte >> 4u) & vec2<u32>(15u);
}
