// Shared by the IQ1 formats: points of eight weights -1, 0 and 1, to which an eighth is added or not. Codes are eighths.

// Returns the codes of two points, plus 9. An eighth is subtracted where `negative` is 1.
fn q_ternary_points(points: vec2<u32>, negative: vec2<u32>) -> vec4<u32> {
    let eights = vec4<u32>(points.x << 3u, points.x >> 1u, points.y << 3u, points.y >> 1u) & vec4<u32>(0x18181818u);
    let eighths = (negative ^ vec2<u32>(1u)) * vec2<u32>(0x02020202u);
    return eights | vec4<u32>(eighths.xx, eighths.yy);
}

// Returns a block of four points.
fn q_ternary_block(points: vec4<u32>, negative: vec4<u32>, scale: vec2<f32>) -> QBlock32 {
    let codes = q_biased_codes(q_ternary_points(points.xy, negative.xy), q_ternary_points(points.zw, negative.zw), 9u);
    return QBlock32(codes, scale, vec2<f32>(0.0));
}
