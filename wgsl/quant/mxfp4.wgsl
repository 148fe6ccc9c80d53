// MXFP4 (OCP Microscaling Formats 1.0): planes of 32 E2M1 codes (1 vec4) and of E8M0 exponents (a byte) a block.
fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    let qs = w[block];
    let codes = q_signed_codes(q_e2m1(qs), q_e2m1(qs >> vec4<u32>(4u)));
    let e = (q_plane_word(blocks, block >> 2u) >> ((block & 3u) << 3u)) & 0xffu;
    // Half the power of two. Exponents 0 and 1 are subnormal.
    let scale = bitcast<f32>(select((e - 1u) << 23u, 0x00200000u << e, e < 2u));
    return QBlock32(codes, vec2<f32>(scale), vec2<f32>(0.0));
}
