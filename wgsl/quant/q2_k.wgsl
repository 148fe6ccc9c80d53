// Q2_K: planes of codes (4 vec4), of 16 bytes of a scale and a minimum of 4 bits (1 vec4) and of d with dmin (two f16 in a
// word) a super-block.
struct QHeader {
    scales: vec4<u32>,
    d: f32,
    dmin: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let super_block = first >> 3u;
    let super_blocks = blocks >> 3u;
    let dm = q_plane_word(super_blocks * 5u, super_block);
    return QHeader(w[(super_blocks << 2u) + super_block], q_f16(dm & 0xffffu), q_f16(dm >> 16u));
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let q = q_two_bits(first, l);
    let s = q_scale_bytes(header.scales, l);
    return QBlock32(
        q_codes(q.lo, q.hi),
        header.d * vec2<f32>(s & vec2<u32>(15u)),
        -header.dmin * vec2<f32>(s >> vec2<u32>(4u)),
    );
}
