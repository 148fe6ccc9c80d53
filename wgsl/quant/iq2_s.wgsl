// IQ2_S: a table of 1024 points, and planes of codes and signs (4 vec4), of the points' high bits and of scales (1 vec4) and of d
// (f16) a super-block. A block has four bytes of codes, four of signs, and a byte of two high bits of each.
const Q_TABLE = 256u;

struct QHeader {
    high: vec2<u32>,
    scales: vec2<u32>,
    d: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let super_block = first >> 3u;
    let super_blocks = blocks >> 3u;
    let plane = Q_TABLE + (super_blocks << 2u);
    let bytes = w[plane + super_block];
    return QHeader(bytes.xy, bytes.zw, q_plane_f16(plane + super_blocks, super_block) * 0.125);
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let at = Q_TABLE + (first >> 1u) + (l >> 2u);
    let high = select(header.high.x, header.high.y, l >= 4u) >> ((l & 3u) << 3u);
    let top = ((vec4<u32>(high) >> vec4<u32>(0u, 2u, 4u, 6u)) & vec4<u32>(3u)) << vec4<u32>(8u);
    let points = q_points(q_split_bytes(q_word(w[at], l)) | top);
    let signs = q_split_bytes(q_word(w[at + 2u], l));
    return q_block_points(points, signs, header.d * q_odd(q_half_scales(header.scales, l)));
}
