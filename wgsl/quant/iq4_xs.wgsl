// IQ4_XS: planes of nibbles (8 vec4) and of a header (two words: d in f16 and the high bits of the scales, then their low
// bits) a super-block. Scales are stored plus 32.
struct QHeader {
    high: u32,
    low: u32,
    d: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let at = (first >> 3u) << 1u;
    let word = q_plane_word(blocks, at);
    return QHeader(word >> 16u, q_plane_word(blocks, at + 1u), q_f16(word & 0xffffu));
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let qs = w[first + l];
    let scale = ((header.low >> (l << 2u)) & 15u) | (((header.high >> (l << 1u)) & 3u) << 4u);
    let codes = q_signed_codes(q_iq4_levels(qs), q_iq4_levels(qs >> vec4<u32>(4u)));
    return QBlock32(codes, vec2<f32>(header.d * (f32(scale) - 32.0)), vec2<f32>(0.0));
}
