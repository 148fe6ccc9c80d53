// IQ4_NL: planes of 32 nibbles (1 vec4) and of d (f16) a block.
fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    let qs = w[block];
    let codes = q_signed_codes(q_iq4_levels(qs), q_iq4_levels(qs >> vec4<u32>(4u)));
    return QBlock32(codes, vec2<f32>(q_plane_f16(blocks, block)), vec2<f32>(0.0));
}
