// quant/q6_k_header for a single row of activations: all high bits are in the header, since two blocks each have the same words.
// A batch pays for its loads less often, and these take long to compile.
struct QHeader {
    scales: vec4<u32>,
    d: f32,
    high: array<vec4<u32>, 4>,
}

fn q_header(first: u32, blocks: u32) -> QHeader {
    let super_block = first >> 3u;
    let super_blocks = blocks >> 3u;
    return QHeader(
        w[super_blocks * 12u + super_block], q_plane_f16(super_blocks * 13u, super_block),
        array<vec4<u32>, 4>(
            q_high_bits(first, 0u, blocks), q_high_bits(first, 1u, blocks),
            q_high_bits(first, 4u, blocks), q_high_bits(first, 5u, blocks),
        ),
    );
}

fn q_sub_block(header: QHeader, first: u32, l: u32, blocks: u32) -> QBlock32 {
    let odd = (l & 1u) != 0u;
    let front = select(header.high[0], header.high[1], odd);
    let back = select(header.high[2], header.high[3], odd);
    return q_decode(header.scales, header.d, w[first + l], select(front, back, l >= 4u), l);
}
