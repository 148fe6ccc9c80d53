// IQ1_S: a table of 2048 points, and planes of codes (2 vec4), of halves of words (1 vec4) and of d (f16) a super-block. A block
// has four bytes of codes, and half a word of their high bits (3 each), the scale (3 bits) and the sign of the eighth.
const Q_TABLE = 512u;

struct QHeader {
    words: vec4<u32>,
    d: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let super_block = first >> 3u;
    let super_blocks = blocks >> 3u;
    let plane = Q_TABLE + (super_blocks << 1u);
    return QHeader(w[plane + super_block], q_plane_f16(plane + super_blocks, super_block) * 0.125);
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let word = q_word(header.words, l >> 1u) >> ((l & 1u) << 4u);
    let top = (vec4<u32>(word << 8u, word << 5u, word << 2u, word >> 1u)) & vec4<u32>(0x700u);
    let points = q_points(q_split_bytes(q_word(w[Q_TABLE + (first >> 2u) + (l >> 2u)], l)) | top);
    let scale = header.d * q_odd(vec2<u32>((word >> 12u) & 7u));
    return q_ternary_block(points, vec4<u32>((word >> 15u) & 1u), scale);
}
