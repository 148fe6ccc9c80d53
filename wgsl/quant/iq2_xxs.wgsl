// IQ2_XXS: a table of 256 points, and planes of codes (4 vec4) and of d (f16) a super-block. The codes of a block are two words:
// four points, then four groups of seven signs and the scale.
const Q_TABLE = 64u;

struct QHeader {
    d: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    return QHeader(q_plane_f16(Q_TABLE + (blocks >> 1u), first >> 3u) * 0.125);
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let words = q_word_pair(w[Q_TABLE + (first >> 1u) + (l >> 1u)], l);
    let scale = header.d * q_odd(vec2<u32>(words.y >> 28u));
    return q_block_points(q_points(q_split_bytes(words.x)), q_word_signs(words.y), scale);
}
