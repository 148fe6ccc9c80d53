// IQ2_XS: a table of 512 points, and planes of codes (4 vec4), of 16 four-bit scales (two words) and of d (f16) a super-block. The
// codes of a block are four halves of words: a point (9 bits) and seven signs.
const Q_TABLE = 128u;

struct QHeader {
    scales: vec2<u32>,
    d: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let super_block = first >> 3u;
    let super_blocks = blocks >> 3u;
    let plane = Q_TABLE + (super_blocks << 2u);
    let scales = q_word_pair(w[plane + (super_block >> 1u)], super_block);
    return QHeader(scales, q_plane_f16(plane + ((super_blocks + 1u) >> 1u), super_block) * 0.125);
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let words = q_word_pair(w[Q_TABLE + (first >> 1u) + (l >> 1u)], l);
    let codes = vec4<u32>(words.x, words.x >> 16u, words.y, words.y >> 16u);
    let scale = header.d * q_odd(q_half_scales(header.scales, l));
    return q_block_points(q_points(codes & vec4<u32>(511u)), q_even_signs(codes >> vec4<u32>(9u)), scale);
}
