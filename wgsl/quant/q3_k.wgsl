// Q3_K: planes of low code bits (4 vec4), of high bits (2 vec4), of 16 six-bit scales (12 bytes) and of d (f16) a super-block.
// Codes are stored plus 4, scales plus 32.
struct QHeader {
    scales: vec4<u32>,
    d: f32,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let super_block = first >> 3u;
    let super_blocks = blocks >> 3u;
    let plane = super_blocks * 6u;
    let at = super_block * 3u;
    let low = vec2<u32>(q_plane_word(plane, at), q_plane_word(plane, at + 1u));
    let top = vec4<u32>(q_plane_word(plane, at + 2u)) >> vec4<u32>(0u, 2u, 4u, 6u);
    let scales = (vec4<u32>(low, low >> vec2<u32>(4u)) & vec4<u32>(0x0f0f0f0fu))
        | ((top & vec4<u32>(0x03030303u)) << vec4<u32>(4u));
    return QHeader(scales, q_plane_f16(plane + ((super_blocks * 3u + 3u) >> 2u), super_block));
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let q = q_two_bits(first, l);
    let bit = ((l >> 2u) << 2u) | ((l & 1u) << 1u);
    let high = w[(blocks >> 1u) + (first >> 2u) + ((l >> 1u) & 1u)] >> vec4<u32>(bit);
    let ones = vec4<u32>(0x01010101u);
    let lo = q.lo | ((high & ones) << vec4<u32>(2u));
    let hi = q.hi | (((high >> vec4<u32>(1u)) & ones) << vec4<u32>(2u));
    let s = vec2<f32>(q_scale_bytes(header.scales, l)) - vec2<f32>(32.0);
    return QBlock32(
        q_biased_codes(lo, hi, 4u),
        header.d * s,
        vec2<f32>(0.0),
    );
}
