// TQ2_0: planes of codes (4 vec4) and of d (f16) a super-block; codes are stored plus 1.
struct QHeader {
    d: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    return QHeader(q_plane_f16(blocks >> 1u, first >> 3u));
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let q = q_two_bits(first, l);
    return QBlock32(q_biased_codes(q.lo, q.hi, 1u), vec2<f32>(header.d), vec2<f32>(0.0));
}
