// IQ3_XXS: a table of 256 points of four weights, and planes of points (4 vec4), of signs with scales (2 vec4) and of d (f16) a
// super-block. A block has eight bytes of points, and a word of four groups of seven signs and the scale.
const Q_TABLE = 64u;

struct QHeader {
    d: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    return QHeader(q_plane_f16(Q_TABLE + (blocks >> 1u) + (blocks >> 2u), first >> 3u) * 0.25);
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let codes = q_word_pair(w[Q_TABLE + (first >> 1u) + (l >> 1u)], l);
    let word = q_word(w[Q_TABLE + (blocks >> 1u) + (first >> 2u) + (l >> 2u)], l);
    return q_block_of_points(
        q_points(q_split_bytes(codes.x)), q_points(q_split_bytes(codes.y)), q_word_signs(word),
        header.d * q_odd(vec2<u32>(word >> 28u)),
    );
}
