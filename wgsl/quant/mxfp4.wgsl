// MXFP4 (OCP Microscaling Formats 1.0): planes of 32 E2M1 codes (1 vec4) and of E8M0 exponents (a byte) a block.

// Returns the doubled values of 16 codes, as signed bytes: 0, 1, 2, 3, 4, 6, 8 and 12, or less.
fn q_e2m1(codes: vec4<u32>) -> vec4<u32> {
    let ones = vec4<u32>(0x01010101u);
    let bytes = vec4<u32>(255u);
    let exponent0 = ((codes >> vec4<u32>(1u)) & ones) * bytes;
    let exponent1 = ((codes >> vec4<u32>(2u)) & ones) * bytes;
    // 4 or 6 from exponent 2 on, doubled at exponent 3.
    let large = vec4<u32>(0x04040404u) | ((codes & ones) << vec4<u32>(1u));
    let scaled = large + (large & exponent0);
    let magnitude = (codes & vec4<u32>(0x07070707u) & ~exponent1) | (scaled & exponent1);
    // Negation without a carry between bytes.
    let negative = (codes >> vec4<u32>(3u)) & ones;
    let mask = negative * bytes;
    return (((magnitude ^ mask) & vec4<u32>(0x7f7f7f7fu)) + negative) ^ (mask & vec4<u32>(0x80808080u));
}

fn q_block32(block: u32, blocks: u32) -> QBlock32 {
    let qs = w[block];
    let codes = q_signed_codes(q_e2m1(qs), q_e2m1(qs >> vec4<u32>(4u)));
    let e = (q_plane_word(blocks, block >> 2u) >> ((block & 3u) << 3u)) & 0xffu;
    // Half the power of two. Exponents 0 and 1 are subnormal.
    let scale = bitcast<f32>(select((e - 1u) << 23u, 0x00200000u << e, e < 2u));
    return QBlock32(codes, vec2<f32>(scale), vec2<f32>(0.0));
}
