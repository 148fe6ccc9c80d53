// IQ1_M: a table of 2048 points, and planes of codes (2 vec4), of nibbles (1 vec4) and of scales with d (two words) a super-block. A
// block has four bytes of codes, and four nibbles of their high three bits and the sign of the eighth. Each half of the two words
// has four scales of three bits, and four bits of d.
const Q_TABLE = 512u;

struct QHeader {
    nibbles: vec4<u32>,
    scales: vec2<u32>,
    d: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let super_block = first >> 3u;
    let super_blocks = blocks >> 3u;
    let plane = Q_TABLE + (super_blocks << 1u);
    let scales = q_word_pair(w[plane + super_blocks + (super_block >> 1u)], super_block);
    let tops = ((scales >> vec2<u32>(12u)) & vec2<u32>(0xfu)) | ((scales >> vec2<u32>(24u)) & vec2<u32>(0xf0u));
    return QHeader(w[plane + super_block], scales, q_f16(tops.x | (tops.y << 8u)) * 0.125);
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let nibbles = vec4<u32>(q_word(header.nibbles, l >> 1u) >> ((l & 1u) << 4u)) >> vec4<u32>(0u, 4u, 8u, 12u);
    let top = (nibbles & vec4<u32>(7u)) << vec4<u32>(8u);
    let points = q_points(q_split_bytes(q_word(w[Q_TABLE + (first >> 2u) + (l >> 2u)], l)) | top);
    let word = select(header.scales.x, header.scales.y, l >= 4u) >> (((l >> 1u) & 1u) << 4u);
    let scales = (vec2<u32>(word, word >> 3u) >> vec2<u32>((l & 1u) * 6u)) & vec2<u32>(7u);
    return q_ternary_block(points, (nibbles >> vec4<u32>(3u)) & vec4<u32>(1u), header.d * q_odd(scales));
}
