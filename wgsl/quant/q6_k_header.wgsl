// The header of a Q6_K super-block. The high bits of a block are read with it.
struct QHeader {
    scales: vec4<u32>,
    d: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let super_block = first >> 3u;
    let super_blocks = blocks >> 3u;
    return QHeader(w[super_blocks * 12u + super_block], q_plane_f16(super_blocks * 13u, super_block));
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    return q_decode(header.scales, header.d, w[first + l], q_high_bits(first, l, blocks), l);
}
