// IQ3_S: a table of 512 points of four weights, and planes of points (4 vec4), of signs (2 vec4), of the points' ninth bits (two
// words), of eight four-bit scales (a word) and of d (f16) a super-block. A block has eight bytes of points, four of signs and one
// of ninth bits.
const Q_TABLE = 128u;

struct QHeader {
    high: vec2<u32>,
    scales: u32,
    d: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let super_block = first >> 3u;
    let super_blocks = blocks >> 3u;
    let high_plane = Q_TABLE + super_blocks * 6u;
    let scales_plane = high_plane + ((super_blocks + 1u) >> 1u);
    let d_plane = scales_plane + ((super_blocks + 3u) >> 2u);
    return QHeader(
        q_word_pair(w[high_plane + (super_block >> 1u)], super_block),
        q_plane_word(scales_plane, super_block),
        q_plane_f16(d_plane, super_block),
    );
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let codes = q_word_pair(w[Q_TABLE + (first >> 1u) + (l >> 1u)], l);
    let signs = q_split_bytes(q_word(w[Q_TABLE + (blocks >> 1u) + (first >> 2u) + (l >> 2u)], l));
    let high = select(header.high.x, header.high.y, l >= 4u) >> ((l & 3u) << 3u);
    let ninth = vec4<u32>(256u);
    return q_block_of_points(
        q_points(q_split_bytes(codes.x) | ((vec4<u32>(high) << vec4<u32>(8u, 7u, 6u, 5u)) & ninth)),
        q_points(q_split_bytes(codes.y) | ((vec4<u32>(high) << vec4<u32>(4u, 3u, 2u, 1u)) & ninth)), signs,
        header.d * q_odd(vec2<u32>((header.scales >> (l << 2u)) & 15u)),
    );
}
